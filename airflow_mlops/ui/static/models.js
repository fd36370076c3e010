// What the pages do in the browser: sort, filter, choose, ask, follow. No page needs it to be read.
"use strict";
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const base = document.body.dataset.base;
  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const call = async (path, options = {}) => {
    const answer = await fetch(path, {
      ...options,
      headers: { Accept: "application/json", "Content-Type": "application/json", "X-Requested-By": "models-page" },
    });
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(words(told) || `The server answers ${answer.status}.`);
    return told;
  };
  const words = (told) => {
    if (told.headline) return [told.headline, told.detail, told.hint].filter(Boolean).join("\n");
    if (typeof told.detail === "string") return told.detail;
    if (Array.isArray(told.detail)) return told.detail.map((one) => one.msg || JSON.stringify(one)).join("\n");
    return told.detail ? JSON.stringify(told.detail) : "";
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
    };
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
        const numbers = rows.every((row) => value(row) !== "" && !Number.isNaN(Number(value(row))));
        rows.sort((a, b) => (numbers ? value(a) - value(b) : value(a).localeCompare(value(b))) * (down ? -1 : 1));
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
    const cells = $$(".cell", $(".calendar", days));
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
    const whole = (key, day) => (key.length === 7 ? `${key}-${day}` : key.slice(0, 10));
    cells.forEach((cell, index) => {
      cell.addEventListener("click", () => choose(index));
      cell.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1, Home: -index, End: cells.length - 1 - index }[event.key];
        const next = step === undefined ? null : cells[index + step];
        if (!next) return;
        event.preventDefault();
        cell.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      });
    });
  }

  // --- actions: a form, a reason, a run that is followed ---
  const dialog = $("#ask");
  const outcome = $("#outcome");
  const say = (kind, ...parts) => outcome.replaceChildren(make("div", { className: `note ${kind}` }, ...parts));
  const runLink = (dag, run) => {
    const link = make("a", { textContent: run, href: `${base}/dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}` });
    link.dataset.airflow = "";
    return link;
  };
  const OWN = {
    start: { schema: { type: "string", format: "date-time", title: "From" }, required: true },
    end: { schema: { type: "string", format: "date-time", title: "To, exclusive" }, required: true },
    state: { schema: { enum: ["degraded", "ok"], title: "State" }, value: "degraded", required: true },
  };
  const kindOf = (schema) => [schema.type].flat().filter((one) => one && one !== "null")[0] || "string";
  const input = (name, param, preset) => {
    const schema = param.schema || {};
    const value = preset ?? param.value ?? "";
    let made;
    if (schema.enum) {
      made = make("select", {}, ...schema.enum.map((one) => make("option", { value: one, textContent: one, selected: one === value })));
    } else if (kindOf(schema) === "boolean") {
      made = make("input", { type: "checkbox", checked: value === true });
    } else {
      const type = { integer: "number", number: "number" }[kindOf(schema)] ||
        { date: "date", "date-time": "datetime-local" }[schema.format] || "text";
      made = make("input", { type, value });
      if (schema.minimum !== undefined) made.min = schema.minimum;
    }
    made.name = name;
    made.required = Boolean(param.required) || (kindOf(schema) !== "boolean" && ![schema.type].flat().includes("null") && !schema.enum);
    const about = param.description || schema.description || "";
    const utc = made.type === "datetime-local" ? " UTC." : "";
    return make("label", {}, schema.title || name, made, make("span", { className: "small", textContent: `${about}${utc}` }));
  };
  const read = (field) => {
    if (field.type === "checkbox") return field.checked;
    if (field.value === "") return null;
    if (field.type === "number") return Number(field.value);
    return field.type === "datetime-local" ? `${field.value}:00Z`.replace(/(:\d\d):00:00Z$/, "$1:00Z") : field.value;
  };
  let asked = null;
  const open = async (button) => {
    const told = button.dataset;
    asked = told;
    $("#ask-title").textContent = told.title;
    $("#ask-help").textContent = told.help;
    $("#ask-send").textContent = told.title;
    $("#ask-send").className = button.classList.contains("danger") ? "danger" : "primary";
    $("#ask-send").disabled = true;
    $("#ask-paused").classList.toggle("hidden", told.paused !== "yes");
    $("#ask-error").classList.add("hidden");
    $("#ask-reason").value = "";
    $("#ask-fields").replaceChildren();
    dialog.showModal();
    try {
      const params = told.dag ? (await call(`${base}/api/v2/dags/${encodeURIComponent(told.dag)}/details`)).params || {} : OWN;
      const preset = JSON.parse(told.preset);
      asked.reason = "reason" in params ? "yes" : "";
      $("#ask-fields").replaceChildren(
        ...told.fields.split(" ").filter((name) => name in params).map((name) => input(name, params[name], preset[name])));
      $("#ask-send").disabled = false;
    } catch (error) { fail(error, true); }
  };
  const fail = (error, off = false) => {
    $("#ask-error").textContent = error.message;
    $("#ask-error").classList.remove("hidden");
    $("#ask-send").disabled = off;
  };
  const send = async () => {
    const reason = $("#ask-reason").value.trim();
    if (!reason) throw new Error("Say why: the reason is kept with your name.");
    const conf = JSON.parse(asked.fixed);
    for (const field of $$("#ask-fields [name]")) {
      const value = read(field);
      if (value !== null) conf[field.name] = value;
    }
    if (asked.post) {
      await call(asked.post, { method: "POST", body: JSON.stringify({ ...conf, reason }) });
      return null;
    }
    if (asked.reason) conf.reason = reason;
    const body = JSON.stringify({ logical_date: null, conf, note: reason });
    return call(`${base}/api/v2/dags/${encodeURIComponent(asked.dag)}/dagRuns`, { method: "POST", body });
  };
  const follow = async (dag, run, title) => {
    const path = `${base}/api/v2/dags/${encodeURIComponent(dag)}/dagRuns/${encodeURIComponent(run)}`;
    for (;;) {
      const { state } = await call(path);
      if (state === "success") {
        say("good", `${title}: done. `, runLink(dag, run), " ", make("button", { type: "button", textContent: "Show it", onclick: () => location.reload() }));
        return;
      }
      if (state === "failed") { say("bad", `${title}: failed. Its tasks say why: `, runLink(dag, run)); return; }
      say("", `${title}: ${state}. `, runLink(dag, run));
      await new Promise((done) => setTimeout(done, 2000));
    }
  };
  if (dialog) {
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-action]");
      if (button && !button.disabled) open(button);
    });
    $("#ask-cancel").addEventListener("click", () => dialog.close());
    $("form", dialog).addEventListener("submit", async (event) => {
      event.preventDefault();
      $("#ask-send").disabled = true;
      $("#ask-error").classList.add("hidden");
      try {
        const run = await send();
        dialog.close();
        if (run === null) { location.reload(); return; }
        outcome.scrollIntoView({ block: "nearest" });
        follow(run.dag_id, run.dag_run_id, asked.title).catch((error) => say("bad", error.message));
      } catch (error) { fail(error); }
    });
  }

  // --- questions that tasks ask a person ---
  const questions = $("#questions");
  const dags = (($("main") || { dataset: {} }).dataset.dags || "").split(" ").filter(Boolean);
  const answer = async (one, chosen, box) => {
    const ti = one.task_instance;
    const path = `${base}/api/v2/dags/${encodeURIComponent(ti.dag_id)}/dagRuns/${encodeURIComponent(ti.dag_run_id)}/taskInstances/${encodeURIComponent(ti.task_id)}/${ti.map_index}/hitlDetails`;
    try {
      await call(path, { method: "PATCH", body: JSON.stringify({ chosen_options: [chosen], params_input: {} }) });
      box.replaceChildren(`${one.subject} ${chosen}: said. `, runLink(ti.dag_id, ti.dag_run_id));
    } catch (error) { say("bad", error.message); }
  };
  const ask = async (dag) => {
    const told = await call(`${base}/api/v2/dags/${encodeURIComponent(dag)}/dagRuns/~/hitlDetails?response_received=false&limit=20`);
    for (const one of told.hitl_details || []) {
      const box = make("div", { className: "note warn" }, make("strong", { textContent: one.subject }), make("pre", { textContent: one.body || "" }));
      const bar = make("div", { className: "bar" });
      for (const option of one.options) {
        bar.append(make("button", { type: "button", textContent: option, onclick: () => confirm(one, option, bar, box) }));
      }
      bar.append(runLink(one.task_instance.dag_id, one.task_instance.dag_run_id));
      box.append(bar);
      questions.append(box);
    }
  };
  const confirm = (one, option, bar, box) => {
    const sure = make("button", { type: "button", className: "primary", textContent: `Yes: ${option}`, onclick: () => answer(one, option, box) });
    bar.replaceChildren(`Answer "${option}" in your name?`, sure);
    sure.focus();
  };
  if (questions) for (const dag of dags.filter((one) => /\.(backfill|train|deploy)$/.test(one))) ask(dag).catch(() => {});

  // --- a training that goes on ---
  const live = $("#live");
  if (live) {
    const again = async () => {
      if (!$("[data-running=yes]", live)) return;
      const answer = await fetch(live.dataset.poll).catch(() => null);
      if (answer && answer.ok) {
        const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
        live.replaceChildren(...parsed.body.childNodes);
      }
      setTimeout(again, 5000);
    };
    setTimeout(again, 5000);
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
})();
