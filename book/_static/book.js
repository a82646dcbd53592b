/* Listeners that the theme writes into the pages, kept out of them for a strict security policy. */
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) window.print();
});
