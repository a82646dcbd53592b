// A page that moved: its query and fragment go along, which a meta refresh would drop.
const target = document.querySelector("a[data-moved]");
location.replace(target.href + location.search + location.hash);
