// A run that somebody started from the page, until it ends; what failed says why.
import { base, call, make, runLink } from "./page.js";

const path = (...parts) => parts.map(encodeURIComponent).join("/");
const tasksOf = (dag, run) => `${base}/api/v2/dags/${path(dag)}/dagRuns/${path(run)}/taskInstances`;

const taskLink = (ti) => {
  const mapped = ti.map_index < 0 ? "" : `/mapped/${ti.map_index}`;
  const link = make("a", {
    textContent: ti.map_index < 0 ? ti.task_id : `${ti.task_id} ${ti.map_index}`,
    href: `${base}/dags/${path(ti.dag_id)}/runs/${path(ti.dag_run_id)}/tasks/${path(ti.task_id)}${mapped}`,
  });
  link.dataset.airflow = "";
  return link;
};

// Errors of ours are written as headline, where and fix; of others there is a type and a value.
const OURS = /^([^\n]+)(?:\n {2}where: ([^]*?))?(?:\n {2}fix: {3}([^]*))?$/;
const errorOf = (log) => {
  const found = (log.content || []).flatMap((line) => (line.error_detail || []).slice(0, 1));
  const last = found[found.length - 1];
  if (!last) return null;
  const [, headline, where, fix] = OURS.exec(last.exc_value) || [null, last.exc_value];
  const ours = where || fix || /^(AirflowFail|Config|Data|Gate|Mlops|Training|Transient)/.test(last.exc_type);
  return { headline: ours ? headline : `${last.exc_type}: ${last.exc_value}`, where, fix };
};

const said = async (ti) => {
  const log = await call(`${tasksOf(ti.dag_id, ti.dag_run_id)}/${path(ti.task_id)}/logs/${ti.try_number}?full_content=true&map_index=${ti.map_index}`);
  return errorOf(log);
};

// What a task failed of, in the words that it left in its log, which not everybody may read.
const reason = async (ti) => {
  const error = await said(ti).catch(() => null);
  const words = [error?.where, error?.fix].filter(Boolean).join("\n");
  return make("div", { className: "failure" },
    make("strong", { textContent: error ? error.headline : "Its log has no error, or you may not read it." }),
    ...(words ? [make("pre", { textContent: words })] : []),
    make("span", { className: "small" }, "task ", taskLink(ti)));
};

const TOLD = 3;
const FAILED = new Set(["failed", "up_for_retry"]);

export const follow = async (dag, run, title, say) => {
  const of = `${base}/api/v2/dags/${path(dag)}/dagRuns/${path(run)}`;
  let before = "";
  for (;;) {
    const { state } = await call(of);
    const tasks = (await call(`${tasksOf(dag, run)}?limit=100&order_by=-start_date`)).task_instances || [];
    const failed = tasks.filter((ti) => FAILED.has(ti.state)).slice(0, TOLD);
    const working = tasks.filter((ti) => ["running", "deferred", "awaiting_input"].includes(ti.state)).map((ti) => ti.task_id);
    const now = JSON.stringify([state, working, failed.map((ti) => [ti.task_id, ti.map_index, ti.try_number])]);
    // Said anew only when something changed: a reader of the screen would hear it every other second.
    if (now !== before) {
      before = now;
      if (tasks.some((ti) => ti.state === "awaiting_input")) document.dispatchEvent(new CustomEvent("asks", { detail: dag }));
      const reasons = await Promise.all(failed.map(reason));
      if (state === "success") {
        const show = make("button", { type: "button", textContent: "Show it", onclick: () => location.reload() });
        say("good", `${title}: done. `, runLink(dag, run), " ", show);
      } else if (state === "failed") {
        say("bad", `${title}: failed. `, runLink(dag, run), ...reasons);
      } else {
        const at = working.length ? `, at ${[...new Set(working)].join(", ")}` : "";
        const again = reasons.length ? " What failed is tried again:" : "";
        say(reasons.length ? "warn" : "", `${title}: ${state}${at}. `, runLink(dag, run), again, ...reasons);
      }
    }
    if (state === "success" || state === "failed") return;
    await new Promise((done) => setTimeout(done, 2000));
  }
};
