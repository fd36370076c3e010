// What people do from the pages: a form, a reason, a run that is followed; and the answers to what tasks ask.
import { $, $$, base, call, make, runLink } from "./page.js";
import { follow } from "./following.js";

// --- actions: a form, a reason, a run that is followed ---
const dialog = $("#ask");
const outcome = $("#outcome");
const say = (kind, ...parts) => outcome.replaceChildren(make("div", { className: `note ${kind}` }, ...parts));
const OWN = {
  start: { schema: { type: "string", format: "date-time", title: "From" }, required: true },
  end: { schema: { type: "string", format: "date-time", title: "To, exclusive" }, required: true },
  state: { schema: { enum: ["degraded", "ok"], title: "State" }, value: "degraded", required: true },
};
const JSON_LIKE = '{"learning_rate": 0.01}';
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
    if (kindOf(schema) === "object") Object.assign(made, { value: value && JSON.stringify(value), placeholder: JSON_LIKE });
  }
  made.name = name;
  made.dataset.kind = kindOf(schema);
  made.required = Boolean(param.required) || (kindOf(schema) !== "boolean" && ![schema.type].flat().includes("null") && !schema.enum);
  const about = param.description || schema.description || "";
  const utc = made.type === "datetime-local" ? " UTC." : "";
  return make("label", {}, schema.title || name, made, make("span", { className: "small", textContent: `${about}${utc}` }));
};
const read = (field) => {
  if (field.type === "checkbox") return field.checked;
  if (field.value === "") return null;
  if (field.type === "number") return Number(field.value);
  if (field.dataset.kind === "object") {
    try { return JSON.parse(field.value); } catch { throw new Error(`${field.name}: write it as JSON, such as ${JSON_LIKE}.`); }
  }
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
    const asks = (names) => names.split(" ").filter((name) => name in params).map((name) => input(name, params[name], preset[name]));
    const rare = asks(told.rare || "");
    $("#ask-fields").replaceChildren(...asks(told.fields));
    if (rare.length) $("#ask-fields").append(make("details", {}, make("summary", { textContent: "Other than usual" }), ...rare));
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
      follow(run.dag_id, run.dag_run_id, asked.title, say).catch((error) => say("bad", error.message));
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
const asking = new Set();
const ask = async (dag) => {
  const told = await call(`${base}/api/v2/dags/${encodeURIComponent(dag)}/dagRuns/~/hitlDetails?response_received=false&limit=20`);
  for (const one of told.hitl_details || []) {
    const ti = one.task_instance;
    const name = JSON.stringify([ti.dag_run_id, ti.task_id, ti.map_index, ti.try_number]);
    if (asking.has(name)) continue;
    asking.add(name);
    const box = make("div", { className: "note warn" }, make("strong", { textContent: one.subject }), make("pre", { textContent: one.body || "" }));
    const bar = make("div", { className: "bar" });
    for (const option of one.options) {
      bar.append(make("button", { type: "button", textContent: option, onclick: () => confirm(one, option, bar, box) }));
    }
    bar.append(runLink(ti.dag_id, ti.dag_run_id));
    box.append(bar);
    questions.append(box);
  }
};
const confirm = (one, option, bar, box) => {
  const sure = make("button", { type: "button", className: "primary", textContent: `Yes: ${option}`, onclick: () => answer(one, option, box) });
  bar.replaceChildren(`Answer "${option}" in your name?`, sure);
  sure.focus();
};
if (questions) {
  for (const dag of dags.filter((one) => /\.(backfill|train|deploy)$/.test(one))) ask(dag).catch(() => {});
  document.addEventListener("asks", (event) => ask(event.detail).catch(() => {}));
}

// From here on buttons answer.
document.body.dataset.ready = "yes";
