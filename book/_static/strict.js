// Scripts of others that draw, under a policy without inline styles: the rules that they bring go
// into sheets made by script, and not into elements of the page. MathJax's menu is left out.
const adopted = (text) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(text);
  document.adoptedStyleSheets.push(sheet);
};

const given = window.MathJax ?? {};
window.MathJax = {
  ...given,
  chtml: { ...given.chtml, adaptiveCSS: false },
  options: { ...given.options, enableMenu: false },
  startup: {
    ...given.startup,
    ready: () => {
      MathJax._.ui.menu.Menu.Menu.prototype.initMenu = function () {
        const nothing = () => {};
        this.menu = { store: { sort: nothing, clear: nothing, inTaborder: nothing } };
      };
      MathJax.startup.defaultReady();
      const drawn = MathJax.startup.document;
      let isDone = false;
      drawn.addStyleSheet = () => {
        if (!isDone) adopted(drawn.documentStyleSheet().textContent);
        isDone = true;
      };
    },
  },
};

if (window.FontAwesome) adopted(window.FontAwesome.dom.css());
