// What moved: a page's query and fragment go along, which a meta refresh would drop; a fragment that
// begins as data-beginning says, and that this page no longer has, leads to the page that has it.
{
  const { beginning, page } = document.currentScript.dataset;
  const fragment = location.hash.slice(1);
  if (!page) {
    const target = document.querySelector("a[data-moved]");
    location.replace(target.href + location.search + location.hash);
  } else if (fragment.startsWith(beginning) && !document.getElementById(fragment)) {
    location.replace(new URL(page, location.href).href + location.hash);
  }
}
