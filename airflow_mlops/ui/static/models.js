// What the pages do in the browser: sort, filter, choose, follow. No page needs it to be read.
import { $, $$, call, make } from "./page.js";

// --- the list: sort and filter ---
const table = $("#models");
if (table) {
  const rows = $$("tbody tr", table);
  const filter = () => {
    const text = $("#filter").value.trim().toLowerCase();
    const state = $("#state").value;
    let shown = 0;
    for (const row of rows) {
      const fits = row.dataset.words.includes(text) && (!state || row.dataset.state === state);
      row.classList.toggle("hidden", !fits);
      shown += fits;
    }
    $("#shown").textContent = `${shown === rows.length ? "" : `${shown} of `}${rows.length} model${rows.length === 1 ? "" : "s"}`;
    $("#none").classList.toggle("hidden", shown > 0);
    sessionStorage.setItem("models", JSON.stringify([$("#filter").value, $("#state").value]));
  };
  // Who comes back from a model finds the list as it was left.
  [$("#filter").value, $("#state").value] = JSON.parse(sessionStorage.getItem("models") || '["", ""]');
  if (!$("#state").value) $("#state").value = "";
  filter();
  $("#filter").addEventListener("input", filter);
  $("#state").addEventListener("input", filter);
  $("#all").addEventListener("click", () => { $("#filter").value = $("#state").value = ""; filter(); });
  for (const button of $$("[data-sort]", table)) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const one of $$("th", table)) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[button.dataset.sort].dataset.value;
      const numbers = rows.every((row) => !Number.isNaN(Number(value(row))));
      const order = (a, b) => (numbers ? a - b : a.localeCompare(b)) * (down ? -1 : 1);
      // What is not known comes last, whichever way it goes.
      rows.sort((a, b) => (!value(a) - !value(b)) || order(value(a), value(b)));
      $("tbody", table).append(...rows);
    });
  }
}

// --- two versions side by side ---
const compare = $("#compare");
if (compare) {
  const picked = () => $$("input[name=pick]:checked").map((one) => one.value).sort((a, b) => a - b);
  document.addEventListener("change", () => { compare.disabled = picked().length !== 2; });
  compare.addEventListener("click", () => {
    const [one, two] = picked();
    location.assign(`${compare.dataset.goes}?one=${one}&two=${two}`);
  });
}

// --- partitions: choose a first and a last one ---
for (const days of $$(".days")) {
  const cells = $$("button.cell", days);
  const chosen = [];
  const choose = (index) => {
    if (chosen.length !== 1) chosen.length = 0;
    chosen.push(index);
    const [first, last] = [Math.min(...chosen), Math.max(...chosen)];
    cells.forEach((cell, at) => cell.classList.toggle("chosen", first <= at && at <= last));
    const [from, to] = [cells[first].dataset.key, cells[last].dataset.key];
    $(".chosen-words", days).textContent = from === to ? cells[first].title : `${from} to ${to}, ${last - first + 1} partitions`;
    for (const button of $$("[data-action=backfill]", days)) {
      button.dataset.preset = JSON.stringify({ first: whole(from, "01"), last: whole(to, "28") });
    }
    for (const button of $$("[data-action=exclude]", days)) {
      button.dataset.preset = JSON.stringify({ start: cells[first].dataset.start, end: cells[last].dataset.end });
    }
  };
  // The one above or below, in the line of another month.
  const beside = (cell, key) => {
    const line = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[key];
    const others = line ? $$("button.cell", cell.closest(".row")[line] || document.createElement("i")) : [];
    const far = (one) => Math.abs(one.offsetLeft - cell.offsetLeft);
    return others.sort((a, b) => far(a) - far(b))[0];
  };
  const whole = (key, day) => (key.length === 7 ? `${key}-${day}` : key.slice(0, 10));
  cells.forEach((cell, index) => {
    cell.addEventListener("click", () => choose(index));
    cell.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -index, End: cells.length - 1 - index }[event.key];
      const next = step === undefined ? beside(cell, event.key) : cells[index + step];
      if (!next) return;
      event.preventDefault();
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });
}

// --- a training that goes on ---
const live = $("#live");
if (live) {
  const runs = () => $("[data-running=yes]", live) !== null;
  const again = async () => {
    const before = runs();
    const answer = await fetch(live.dataset.poll).catch(() => null);
    if (answer && answer.ok) {
      const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
      live.replaceChildren(...parsed.body.childNodes);
      if (before && !runs()) {
        const show = make("button", { type: "button", textContent: "Show it", onclick: () => location.reload() });
        live.replaceChildren(make("div", { className: "note" }, "The training has ended. ", show));
        return;
      }
    }
    wait();
  };
  // One that begins later is found, too.
  const wait = () => setTimeout(again, runs() ? 5000 : 30000);
  wait();
}

// --- what the registry has of a version ---
const registry = $("#registry");
if (registry) {
  call(registry.dataset.load).then((told) => {
    const link = make("a", { href: told.url, textContent: "its page" });
    link.dataset.outside = "";
    registry.replaceChildren(...told.aliases.map((one) => make("span", { className: "badge good", textContent: one })), " ", link);
  }).catch((error) => registry.replaceChildren(make("span", { className: "quiet", textContent: error.message.split("\n")[0], title: error.message })));
}
