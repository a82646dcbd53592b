/* The theme's click handlers, kept out of the pages so that a strict security policy can be served. */
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-call]");
  if (button) window[button.dataset.call]();
});
