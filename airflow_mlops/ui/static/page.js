// What all scripts of the pages need: to find, to make, to ask, and links that leave the frame.
export const $ = (selector, from = document) => from.querySelector(selector);
export const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
export const base = document.body.dataset.base;
export const make = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
export const call = async (path, options = {}) => {
  const answer = await fetch(path, {
    ...options,
    headers: { Accept: "application/json", "Content-Type": "application/json", "X-Requested-By": "models-page" },
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(words(told) || `The server answers ${answer.status}.`);
  return told;
};
export const words = (told) => {
  if (told.headline) return [told.headline, told.detail, told.hint].filter(Boolean).join("\n");
  if (typeof told.detail === "string") return told.detail;
  if (Array.isArray(told.detail)) return told.detail.map((one) => one.msg || JSON.stringify(one)).join("\n");
  return told.detail ? JSON.stringify(told.detail) : "";
};

export const runLink = (dag, run) => {
  const link = make("a", { textContent: run, href: `${base}/dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}` });
  link.dataset.airflow = "";
  return link;
};

// Pages of Airflow are around this one, in the frame above.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-airflow], a[data-outside]");
  if (!link || window.parent === window) return;
  event.preventDefault();
  const above = window.parent.document;
  const goes = above.createElement("a");
  goes.href = link.href;
  if (link.dataset.outside !== undefined) Object.assign(goes, { target: "_blank", rel: "noopener noreferrer" });
  above.body.append(goes);
  goes.click();
  goes.remove();
});
