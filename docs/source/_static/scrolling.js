/* Let the keyboard reach what scrolls sideways, such as long lines of code. */
(() => {
  const mark = () => {
    for (const box of document.querySelectorAll("article :is(pre, .output, .table-wrapper, .widget-at-rest)"))
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
  };
  addEventListener("load", mark);
  addEventListener("resize", mark);
})();
