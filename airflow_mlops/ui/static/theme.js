// The page is as dark as Airflow around it is, and turns when Airflow does; alone, as the browser says.
"use strict";
(() => {
  const here = document.documentElement;
  const dark = () => {
    let around = null;
    try { around = window.parent === window ? null : window.parent.document.documentElement; } catch { /* of others */ }
    if (around) return around.classList.contains("dark");
    const said = localStorage.getItem("theme");
    return said === "dark" || (said !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  };
  const follow = () => here.classList.toggle("dark", dark());
  follow();
  try {
    if (window.parent !== window) {
      new MutationObserver(follow).observe(window.parent.document.documentElement, { attributeFilter: ["class"] });
    }
  } catch { /* of others */ }
  addEventListener("storage", follow);
})();
