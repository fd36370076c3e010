"""The Models page in a real Airflow, in a real browser: signed in as viewer, operator and admin.

Airflow has three users here and lies behind a prefix. The ledger tells the story of a model, and the same once more
with markup wherever a text may stand. Screenshots go to the folder that MLOPS_SCREENSHOTS names.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from airflow_mlops.bootstrap import watch
from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.engine.data.announcements import announced
from airflow_mlops.engine.data.exclusions import exclusions
from airflow_mlops.engine.halts import halt, halted
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import deployment, pin
from airflow_mlops.stack import processes
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.ports import HOST, Ports
from airflow_mlops.stack.stack import Stack
from tests.e2e.small_stack import small_stack
from tests.integration.test_ui_announcements_and_reports import token
from tests.overview_fixtures import MARKUP, SERVER, day, seal_rows, tell

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.e2e
USERS = {"admin": "admin", "otto": "op", "vic": "viewer"}
EVIL = 'it\'s <b>"one"</b> & %'


class Site(NamedTuple):
    """An Airflow with users, behind a prefix."""

    url: str
    stack: Stack
    ledger: Ledger
    watcher: Watcher
    tokens: dict[str, str]

    def client(self, user: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[user]}"} if user else {}
        return httpx.Client(headers=headers, timeout=30, trust_env=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("models-page")
    with small_stack(folder, lambda _: {}) as stack, AirflowApi(stack.airflow_url) as airflow:
        shutil.copy(Path(__file__).parent / "models_dag.py", stack.dags / "models_dag.py")
        ledger = Ledger(stack.database.url("mlops_ledger"))
        for name in ("shop", "shop_fraud", "shop_returns"):
            tell(ledger, name)
        seal_rows(ledger, stack.layout.home, "shop")
        halt(ledger, "shop_fraud", "ann", "labels of last week are wrong")
        pin(ledger, SERVER, "shop_returns", "otto", "black friday")
        tell(ledger, EVIL, MARKUP, dataset="lake <i>'s</i>")
        port = Ports.free().airflow
        passwords = folder / "passwords.json"
        passwords.write_text(json.dumps({user: f"{user}-password" for user in USERS}))
        url = f"http://{HOST}:{port}/team"
        settings = {
            "API__PORT": str(port),
            "API__BASE_URL": url,
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        }
        environment = {**stack.environment, **{f"AIRFLOW__{name}": value for name, value in settings.items()}}
        mlflow = f"sqlite:///{folder}/mlflow.db"
        trainings_in(mlflow)
        environment["AIRFLOW_CONN_MLFLOW_DEFAULT"] = json.dumps({"conn_type": "mlflow", "host": mlflow})
        server = processes.spawn(
            "api-server-with-users",
            [sys.executable, "-m", "airflow", "api-server"],
            env=environment,
            cwd=folder,
            log=stack.layout.log("api-server-with-users"),
        )
        watcher = Watcher(airflow, stack, timeout=180)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watch, "_POLL", 0.5)
            try:
                watcher.ready(
                    [
                        "shop.runbook",
                        "shop.rollback",
                        "shop.roll_through",
                        "shop.train",
                        "shop.deploy",
                        "shop.backfill",
                        "hotel.deploy",
                    ]
                )
                watcher.until(lambda: answers(f"{url}/api/v2/version"))
                tokens = {user: token(url, user, f"{user}-password") for user in USERS}
                yield Site(url, stack, ledger, watcher, tokens)
            finally:
                processes.stop([server], grace=2)


def trainings_in(mlflow: str) -> None:
    """Give the versions of ``shop`` their runs: the fourth learned its rows by heart, and was stopped."""
    client = MlflowClient(mlflow, mlflow)
    client.create_registered_model("shop")
    for version in range(1, 7):
        run = client.create_run("0").info.run_id
        rows = []
        for epoch in range(8 if version == 4 else 12):
            loss = 0.45 + 0.24 * math.exp(-epoch / (3 + version / 3))
            worse = 0.012 * max(0, epoch - 3) if version == 4 else 0.0
            values = {"loss": loss, "val_loss": loss + 0.02 + worse, "learning_rate": 0.001 * 0.8**epoch}
            values |= {"auc": 1.1 - loss, "val_auc": 1.08 - loss - worse}
            rows += [Metric(f"epoch/{name}", value, epoch, epoch) for name, value in values.items()]
        client.log_batch(run, metrics=rows)
        client.create_model_version("shop", "x", run)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def sign_in(page: Page, site: Site, user: str) -> None:
    """Go through Airflow's own form."""
    page.context.clear_cookies()
    page.goto(f"{site.url}/auth/login/")
    page.locator("input[name=username]").fill(user)
    page.locator("input[name=password]").fill(f"{user}-password")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/auth/" not in url)


def frame(page: Page) -> Any:
    return page.frame_locator("iframe")


def ready(page: Page) -> Any:
    """Return the frame once its scripts answer."""
    frame(page).locator("body[data-ready]").wait_for()
    return frame(page)


def shot(page: Page, name: str) -> None:
    if folder := os.environ.get("MLOPS_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


@pytest.fixture
def errors(page: Page) -> Iterator[list[str]]:
    """What the browser complains of; and every request leaves for this machine only."""
    said: list[str] = []
    page.context.set_default_timeout(20_000)
    page.set_viewport_size({"width": 1400, "height": 1000})

    def on_console(message: Any) -> None:
        if message.type == "error":
            said.append(message.text)

    def on_request(request: Any) -> None:
        if request.url.startswith("http") and HOST not in request.url:
            said.append(request.url)

    page.on("console", on_console)
    page.on("request", on_request)
    page.on("dialog", lambda dialog: (said.append(f"a script ran: {dialog.message}"), dialog.dismiss()))
    yield said
    page.remove_listener("console", on_console)
    page.remove_listener("request", on_request)


def policy_errors(said: list[str]) -> list[str]:
    return [one for one in said if "Content Security Policy" in one or "script ran" in one or one.startswith("http")]


# --- what is shown ----------------------------------------------------------------------------------------


def test_a_viewer_finds_the_models_in_the_navigation_and_looks_around(
    site: Site, page: Page, errors: list[str]
) -> None:
    sign_in(page, site, "vic")
    page.get_by_role("link", name="Models").first.click()
    models = ready(page)
    shop = models.get_by_role("link", name="shop", exact=True)
    row = models.locator("#models tbody tr", has=shop)
    row.wait_for()
    assert "version 6" in row.inner_text()
    assert "auc 0.724" in row.inner_text()
    assert row.locator("svg.spark").count() == 1

    models.locator("#filter").fill("shop")
    assert models.locator("#models tbody tr:visible").count() == 3
    shot(page, "models")
    models.locator("#state").select_option("halted")
    assert models.locator("#models tbody tr:visible").count() == 1
    models.locator("#filter").fill("nothing like it")
    assert models.locator("#none").is_visible()
    models.locator("#all").click()
    names = lambda: models.locator("#models tbody tr td:first-child a").all_inner_texts()  # noqa: E731
    models.get_by_role("button", name="Model", exact=True).click()
    first = names()
    models.get_by_role("button", name="Model", exact=True).click()
    assert names() == first[::-1]

    shop.click()
    models.get_by_role("heading", name="What happened").wait_for()
    assert "/plugin/models" in page.url, "the address can be passed on"
    halt = models.get_by_role("button", name="Halt")
    assert halt.is_disabled()
    assert halt.get_attribute("title") == "You may not start runs of shop.runbook."
    models.get_by_text("events in words").click()
    assert models.get_by_text("version 4 judged FAIL").count() >= 1

    ready(page).get_by_label("Compare version 4").check()
    models.get_by_label("Compare version 6").check()
    models.get_by_role("button", name="Compare two").click()
    models.get_by_role("heading", name="What changed").wait_for()
    models.locator(".uplot canvas").nth(2).wait_for()
    charts = models.locator("#curves [role=img]")
    assert [charts.nth(n).get_attribute("aria-label").partition(" by epoch")[0] for n in range(3)] == [
        "loss",
        "auc",
        "learning_rate",
    ]
    assert "version 4, validation: " in charts.first.get_attribute("aria-label")
    charts.first.locator(".u-over").hover()
    assert models.locator(".u-legend .u-value").first.inner_text().isdecimal(), (
        "the values of the epoch under the mouse"
    )
    shot(page, "compare")
    models.get_by_role("link", name="version 4").first.click()
    models.get_by_role("heading", name="Verdict").wait_for()
    assert models.get_by_text("refused").count() == 0
    models.get_by_text("30 partitions").click()
    models.locator("#curves .uplot canvas").nth(2).wait_for()
    shot(page, "version")
    models.get_by_role("link", name="shop").click()
    models.get_by_role("link", name="orders").click()
    models.get_by_role("heading", name="Distributions").wait_for()
    assert models.get_by_role("button", name="Exclude a window").is_disabled()
    price = models.locator(".features > div", has=models.get_by_role("heading", name="price"))
    assert "then" in price.inner_text()
    assert price.locator("svg path.bar").count() == price.locator("svg path.line").count() == 1
    assert price.locator("svg").bounding_box()["height"] > 50
    assert models.get_by_text("Anna").count() == 0
    models.get_by_role("heading", name="Distributions").scroll_into_view_if_needed()
    shot(page, "data")
    models.get_by_role("link", name="shop").click()
    models.get_by_role("link", name="per_day").click()
    models.locator("svg path.line").first.wait_for()
    assert models.get_by_text("then").count() > 1
    assert policy_errors(errors) == []


def test_any_text_is_a_text(site: Site, page: Page, errors: list[str]) -> None:
    """Names with quotes and markup in every field run nothing and break nothing."""
    sign_in(page, site, "vic")
    page.goto(f"{site.url}/plugin/models")
    models = frame(page)
    models.get_by_role("link", name=EVIL).click()
    models.get_by_role("heading", name="What happened").wait_for()
    assert models.locator("h1").inner_text() == EVIL
    assert models.locator("img").count() == 0
    assert models.get_by_text(MARKUP).count() > 5
    models.get_by_role("link", name="lake <i>'s</i>").click()
    models.get_by_role("heading", name="Distributions").wait_for()
    page.goto(f"{site.url}/mlops/models/nothing%20%3Cb%3E")
    assert page.locator("b").count() == 0
    assert policy_errors(errors) == []


def test_dark_as_airflow_is_and_by_keyboard(site: Site, page: Page, errors: list[str]) -> None:
    sign_in(page, site, "vic")
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.goto(f"{site.url}/plugin/models")
    models = frame(page)
    models.locator("#models").wait_for()
    assert models.locator("html.dark").count() == 1
    shot(page, "models-dark")
    models.get_by_role("link", name="shop", exact=True).press("Enter")
    models.get_by_role("heading", name="Partitions").wait_for()
    cells = ready(page).locator(".calendar button.cell")
    cells.first.focus()
    cells.first.press("ArrowRight")
    cells.nth(1).press("Enter")
    cells.nth(1).press("End")
    cells.last.press("Enter")
    assert "59 partitions" in models.locator(".chosen-words").inner_text()
    shot(page, "model-dark")
    page.goto(f"{site.url}/plugin/models/team/mlops/models/shop/compare?one=4&two=6")
    models.locator(".uplot canvas").first.wait_for()
    page.evaluate("localStorage.setItem('theme', 'light')")
    assert policy_errors(errors) == []


def test_a_narrow_window_hides_nothing(site: Site, page: Page, errors: list[str]) -> None:
    sign_in(page, site, "vic")
    page.set_viewport_size({"width": 600, "height": 1000})
    for path in ("", "/team/mlops/models/shop", "/team/mlops/models/shop/data/orders"):
        page.goto(f"{site.url}/plugin/models{path}")
        body = ready(page).locator("body")
        assert body.evaluate("one => one.scrollWidth <= one.ownerDocument.defaultView.innerWidth"), path
        if path.endswith("/shop"):
            texts = frame(page).locator(".timeline text:visible")
            assert min(texts.nth(n).bounding_box()["height"] for n in range(texts.count())) > 11
            shot(page, "model-narrow")
    frame(page).locator(".features svg").first.wait_for()
    page.goto(f"{site.url}/plugin/models")
    row = ready(page).locator("#models tbody tr", has=frame(page).get_by_role("link", name="shop", exact=True))
    width = row.bounding_box()["width"]
    assert all(cell.bounding_box()["width"] <= width for cell in row.locator("td:visible").all())
    assert policy_errors(errors) == []


# --- what is done -----------------------------------------------------------------------------------------


def act(page: Page, button: str, reason: str, **fields: str) -> Any:
    """Fill in the form of an action, and send it."""
    models = frame(page)
    asked = models.locator(f"button:visible:text-is('{button}')").first
    asked.wait_for()
    ready(page)
    asked.click()
    dialog = models.locator("dialog[open]")
    dialog.wait_for()
    for name, value in fields.items():
        field = dialog.locator(f"[name={name}]")
        field.wait_for(state="attached")
        if not field.is_visible():
            dialog.get_by_text("Other than usual").click()
        (field.select_option if field.evaluate("one => one.tagName") == "SELECT" else field.fill)(value)
    dialog.locator("#ask-send").click()
    assert dialog.is_visible(), "nothing is done without a reason"
    dialog.locator("#ask-reason").fill(reason)
    return dialog


def send(page: Page, button: str, reason: str, **fields: str) -> None:
    act(page, button, reason, **fields).locator("#ask-send").click()


def test_an_operator_pins_halts_and_resumes_from_the_page(site: Site, page: Page, errors: list[str]) -> None:
    sign_in(page, site, "otto")
    page.goto(f"{site.url}/plugin/models/team/mlops/models/shop")
    models = frame(page)
    ready(page)
    shot(page, "model")
    dialog = act(page, "Halt", "labels of last week are wrong")
    shot(page, "halt")
    dialog.locator("#ask-reason").fill(MARKUP)
    dialog.locator("#ask-send").click()
    models.get_by_text("Halt: done.").wait_for(timeout=60_000)
    found = halted(site.ledger, "shop")
    assert found is not None
    assert (found.who, found.reason) == ("otto", MARKUP)
    [run] = site.watcher.airflow.runs("shop.runbook")
    assert run["note"] == MARKUP
    assert run["triggering_user_name"] == "otto"
    models.get_by_role("button", name="Show it").click()
    models.locator(".note.bad", has_text="is halted by otto").wait_for()
    send(page, "Resume", "mended")
    models.get_by_text("Resume: done.").wait_for(timeout=60_000)
    assert halted(site.ledger, "shop") is None
    send(page, "Pin", "black friday", until="2036-12-01T00:00")
    models.get_by_text("Pin: done.").wait_for(timeout=60_000)
    state = deployment(site.ledger, SERVER, "shop")[0]
    assert state.pin is not None
    assert (state.pin.version, state.pin.who, str(state.pin.until)) == (6, "otto", "2036-12-01 00:00:00+00:00")
    models.get_by_role("button", name="Show it").click()
    send(page, "Unpin", "over")
    models.get_by_text("Unpin: done.").wait_for(timeout=60_000)
    assert deployment(site.ledger, SERVER, "shop")[0].pin is None
    assert policy_errors(errors) == []


def test_what_failed_says_why_and_what_to_do(site: Site, page: Page, errors: list[str]) -> None:
    sign_in(page, site, "otto")
    page.goto(f"{site.url}/plugin/models/team/mlops/models/shop")
    models = frame(page)
    send(page, "Halt", "too late", until="2020-01-01T00:00")
    models.get_by_text("Halt: failed.").wait_for(timeout=60_000)
    told = models.locator("#outcome .failure").inner_text()
    assert "The halt would have run out already." in told
    assert "Name a moment that is still to come" in told
    assert "task halt" in told
    shot(page, "failed")
    assert halted(site.ledger, "shop") is None
    assert policy_errors(errors) == []


def test_the_partition_that_a_run_waits_for_is_awaited(site: Site, page: Page, errors: list[str]) -> None:
    airflow = site.watcher.airflow
    run = airflow.trigger("shop.features", partition_key=day(0))["dag_run_id"]
    sign_in(page, site, "vic")
    page.goto(f"{site.url}/plugin/models/team/mlops/models/shop?period={day(0)[:4]}")
    cell = frame(page).locator(f"button[data-key='{day(0)}']")
    assert cell.get_attribute("aria-label") == f"{day(0)}: awaited"
    airflow._call("PATCH", f"/dags/shop.features/dagRuns/{run}", json={"state": "failed"})
    assert policy_errors(errors) == []


def test_each_dag_is_started_with_what_was_chosen(site: Site, page: Page, errors: list[str]) -> None:
    sign_in(page, site, "otto")
    airflow = site.watcher.airflow

    def started(dag_id: str, button: str, reason: str, **fields: str) -> dict[str, Any]:
        page.goto(f"{site.url}/plugin/models/team/mlops/models/shop")
        frame(page).get_by_role("heading", name="What happened").wait_for()
        if button == "Plan a backfill":
            cells = ready(page).locator(".calendar button.cell")
            cells.nth(3).click()
            cells.nth(5).click()
            shot(page, "calendar")
        before = {run["dag_run_id"] for run in airflow.runs(dag_id)}
        send(page, button, reason, **fields)
        site.watcher.until(lambda: {run["dag_run_id"] for run in airflow.runs(dag_id)} > before)
        [run] = [one for one in airflow.runs(dag_id) if one["dag_run_id"] not in before]
        path = f"/dags/{dag_id}/dagRuns/{run['dag_run_id']}"
        airflow._call("PATCH", path, json={"state": "failed"})
        return run

    trained = started("shop.train", "Train", "new prices", window="20d")
    assert {"window": "20d", "reason": "new prices"}.items() <= trained["conf"].items()
    rolled = started("shop.rollback", "Roll back", "bad answers", to_version="3")
    assert {"to_version": 3, "reason": "bad answers"}.items() <= rolled["conf"].items()
    forward = started("shop.roll_through", "Roll through", "the world has changed", confirm="shop")
    assert forward["conf"] == {"confirm": "shop", "reason": "the world has changed"}
    deployed = started("shop.deploy", "Deploy", "it is better")
    assert deployed["conf"]["version"] == 5
    assert deployed["note"] == "it is better"
    planned = started("shop.backfill", "Plan a backfill", "a day was lost")
    assert (planned["conf"]["first"], planned["conf"]["last"]) == (day(57), day(55))
    assert planned["triggering_user_name"] == "otto"
    assert policy_errors(errors) == []


def test_windows_are_excluded_and_sources_announced(site: Site, page: Page, errors: list[str]) -> None:
    sign_in(page, site, "otto")
    page.goto(f"{site.url}/plugin/models/team/mlops/models/shop/data/orders")
    models = frame(page)
    models.get_by_role("heading", name="Distributions").wait_for()
    cells = ready(page).locator(".calendar button.cell")
    cells.nth(1).click()
    cells.nth(2).click()
    send(page, "Exclude a window", "doubled")
    models.get_by_text("by otto: doubled").wait_for()
    [made] = [one for one in exclusions(site.ledger, "orders") if one.reason == "doubled"]
    assert (str(made.start.date()), str(made.end.date()), made.who) == (day(59), day(57), "otto")
    send(page, "Announce", "half is missing", state="degraded")
    site.watcher.until(lambda: announced(site.ledger, "orders").state == "degraded")
    assert announced(site.ledger, "orders").who == "otto"
    page.goto(f"{site.url}/plugin/models/team/mlops/models/shop")
    models.get_by_text("orders is announced degraded: half is missing").wait_for()
    assert policy_errors(errors) == []


def test_a_person_answers_what_a_task_asks(site: Site, page: Page, errors: list[str]) -> None:
    airflow, watcher = site.watcher.airflow, site.watcher
    run = airflow.trigger("hotel.deploy")["dag_run_id"]
    watcher.until(lambda: [task["state"] for task in airflow.tasks("hotel.deploy", run)] == ["awaiting_input"])
    sign_in(page, site, "otto")
    page.goto(f"{site.url}/plugin/models/team/mlops/models/hotel")
    models = frame(page)
    models.get_by_text("Deploy <b>version 7</b>?").wait_for()
    shot(page, "question")
    models.get_by_role("button", name="Approve").click()
    models.get_by_role("button", name="Yes: Approve").click()
    watcher.finish("hotel.deploy", run)
    assert policy_errors(errors) == []


def test_dags_and_runs_have_a_tab(site: Site, page: Page, errors: list[str]) -> None:
    sign_in(page, site, "admin")
    page.goto(f"{site.url}/dags/shop.train")
    page.get_by_role("link", name="Model", exact=True).click()
    frame(page).get_by_role("heading", name="The model now").wait_for()
    shot(page, "tab")
    run = site.watcher.airflow.trigger("shop.runbook", {"action": "unpin", "reason": "x"})
    page.goto(f"{site.url}/dags/shop.runbook/runs/{run['dag_run_id']}")
    page.get_by_role("link", name="Model", exact=True).click()
    frame(page).get_by_role("heading", name="This run").wait_for()
    frame(page).get_by_role("link", name="All of shop").click()
    frame(page).get_by_role("heading", name="What happened").wait_for()
    assert policy_errors(errors) == []


# --- who may ----------------------------------------------------------------------------------------------

PAGES = (
    *(
        "models",
        "models/shop",
        "models/shop/versions/6",
        "models/shop/versions/6/registry",
        "models/shop/data/orders",
        "models/shop/features/per_day",
    ),
    *(
        "models/shop/compare?one=4&two=6",
        "models/shop/training",
        "models/shop/curves?version=6",
        "tab?dag_id=shop.train",
    ),
    *(
        "static/models.js",
        "static/models.css",
        "static/uplot.js",
        "static/theme.js",
        "static/models.svg",
        "static/nothing.js",
    ),
)


def test_nobody_sees_anything_without_signing_in(site: Site) -> None:
    with site.client(None) as anyone:
        for path in PAGES:
            assert anyone.get(f"{site.url}/mlops/{path}").status_code == 401, path


def test_every_page_says_what_it_may_load_and_none_has_a_secret(site: Site) -> None:
    with site.client("vic") as viewer:
        for path in PAGES:
            answer = viewer.get(f"{site.url}/mlops/{path}", headers={"Accept": "text/html"})
            assert answer.status_code in (200, 404, 503, 400), path
            assert "default-src 'none'" in answer.headers.get("content-security-policy", ""), path
            assert site.ledger.url not in answer.text


def test_a_viewer_can_change_nothing(site: Site) -> None:
    source = f"{site.url}/mlops/api/v1/sources/orders/exclusions"
    window = {"start": "2026-01-01T00:00Z", "end": "2026-01-02T00:00Z", "reason": "x"}
    with site.client("vic") as viewer, site.client("otto") as otto:
        assert viewer.get(source).status_code == 200
        assert viewer.post(source, json=window, headers={"X-Requested-By": "x"}).status_code == 403
        body = {"logical_date": None, "conf": {"action": "halt", "reason": "x"}}
        assert viewer.post(f"{site.url}/api/v2/dags/shop.runbook/dagRuns", json=body).status_code == 403
        assert otto.post(source, json=window).status_code == 400, "another site could have sent it"
        wrong = otto.post(f"{source}/none/lift", json={"reason": "x"}, headers={"X-Requested-By": "x"})
        assert (wrong.status_code, wrong.json()["headline"]) == (400, "orders has no exclusion 'none' in force.")
