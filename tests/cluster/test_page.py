"""The page as people see it: a real Chromium, the operator as a process, jobs whose trainers have reported.

With FINETUNE_SCREENSHOTS=docs/images, the pictures of docs/page.md are taken anew.
"""

import http.client
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from cluster.browser import DESKTOP, PHONE, Browser, browser
from cluster.chart import rendered
from cluster.kube import Kube, eventually
from cluster.operators import Operator
from cluster.page_jobs import HOSTILE, Team, told

SCREENSHOTS = os.environ.get("FINETUNE_SCREENSHOTS")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def team(kube: Kube, operator: Operator) -> Iterator[Team]:
    with kube.namespace("support-team") as namespace:
        made = Team(namespace, operator)
        made.everything()
        yield made


@pytest.fixture
def page(chromium: Browser, operator: Operator) -> Iterator[str]:
    """The page's address. Whatever a test does there, the browser has nothing to complain about."""
    chromium.resize(DESKTOP)
    chromium.errors()
    chromium.requested.clear()
    address = f"http://127.0.0.1:{operator.page_port}"
    yield address
    assert chromium.errors() == []
    assert {request.split("/", 3)[2] for request in chromium.requested} == {f"127.0.0.1:{operator.page_port}"}


def job_address(team: Team, name: str) -> str:
    return f"/namespaces/{team.namespace.name}/finetunejobs/{name}"


def ask(operator: Operator, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", operator.page_port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_the_jobs_of_a_namespace_are_listed_and_those_that_go_on_stand_first(
    chromium: Browser, page: str, team: Team
) -> None:
    chromium.open(f"{page}/?namespace={team.namespace.name}")
    rows = eventually(lambda: chromium.all("tbody tr"))
    names, phases = chromium.texts(".job a"), chromium.texts(".badge")
    assert names[0] == "support-osft"
    # Those of the first seconds may have been created in the same one.
    assert sorted(names[1:3]) == ["catalog-tagging", "nightly-refresh"]
    assert sorted(names[3:]) == ["hostile", "intent-lora"]
    assert dict(zip(names, phases, strict=True)) == {
        "support-osft": "Running",
        "catalog-tagging": "Queued",
        "nightly-refresh": "Suspended",
        "hostile": "Failed",
        "intent-lora": "Succeeded",
    }
    assert "840/1240 (67%)" in rows[0].text
    assert rows[0].find_element("css selector", "progress").get_attribute("value") == "67"
    assert rows[0].find_elements("css selector", ".spark path")
    assert not rows[2].find_elements("css selector", ".spark path")
    chosen = chromium.find(".choices [aria-current=page]")
    assert chosen.text == team.namespace.name
    chromium.find(".job a").click()
    assert eventually(lambda: chromium.texts("h1")) == ["support-osft"]


def test_one_job_shows_how_it_went_what_it_made_and_why(chromium: Browser, page: str, team: Team) -> None:
    chromium.open(page + job_address(team, "support-osft"))
    charts = eventually(lambda: chromium.all(".chart svg"))
    assert chromium.texts(".chart h2") == ["Loss per token", "Learning rate", "Throughput tokens/s"]
    for chart in charts:
        for line in chart.find_elements("css selector", "path.line"):
            # A curve of 53 points, or that of five evaluations, somewhere in the picture.
            assert (line.get_attribute("d") or "").count("L") in (52, 4)
            assert line.size["width"] > 100
            assert line.size["height"] > 40
    assert len(chromium.all(".chart:first-child circle.point")) == 5
    shown = chromium.find("main").text
    for words in (
        "Step 840/1240 (67%)",
        "Attempt 2",
        "Attempt 1",
        "CollectiveTimeout",
        "from step 600",
        "a collective did not end in time",
        "suits 79,360 samples: about 600 steps per epoch",
        "one epoch is often enough",
        "31 GiB estimated, 27 GiB to 36 GiB likely",
        "a GPU has 80 GiB",
        "support/checkpoints/step-00000800",
        "validation loss",
        "Restarting",
        "Progressing",
    ):
        assert words in shown, words
    log = chromium.find(".attempts details")
    assert not log.find_element("css selector", "pre").is_displayed()
    log.find_element("css selector", "summary").click()
    assert "[rank3]: Watchdog caught" in log.text


def test_points_of_a_chart_can_be_read_by_keyboard(chromium: Browser, page: str, team: Team) -> None:
    chromium.open(page + job_address(team, "intent-lora"))
    chart = eventually(lambda: chromium.all(".chart svg"))[0]
    readout = chromium.find(".chart .readout")
    assert readout.text.startswith("training 2.")
    chart.send_keys(Keys.END)
    assert readout.text.startswith("step 1,240: training 1.0")
    chart.send_keys(Keys.HOME)
    assert readout.text.startswith("step 0: validation 2.32")
    chart.send_keys(Keys.ARROW_RIGHT)
    assert readout.text.startswith("step 32: training ")


def test_it_follows_a_job_without_being_loaded_again(chromium: Browser, page: str, team: Team) -> None:
    name = "support-osft"
    chromium.open(page + job_address(team, name))
    eventually(lambda: chromium.all(".chart svg"))
    chromium.find(".attempts summary").click()
    chromium.run("window.untouched = true")
    team.tell(name, told(850, attempt=2, sequence=2, resumed_from_step=600))
    eventually(lambda: "Step 850/1240" in chromium.find("main").text, seconds=60)
    assert chromium.run("return window.untouched")
    assert chromium.find(".attempts details").get_attribute("open"), "what somebody reads stays open"
    assert chromium.find("#live").text == "Live"


def test_nobody_who_does_not_look_asks(chromium: Browser, page: str, team: Team) -> None:
    chromium.open(f"{page}/?namespace={team.namespace.name}")
    eventually(lambda: chromium.all("tbody tr"))
    chromium.run(
        "window.seen = []; document.addEventListener('visibilitychange', () => seen.push(performance.now()))"
    )
    with chromium.another_tab():
        time.sleep(10)
    hidden, shown = chromium.run("return window.seen")
    resources = "performance.getEntriesByType('resource').filter(one => one.name.includes('/api/'))"
    asked = chromium.run(f"return {resources}.map(one => one.startTime)")
    assert asked
    # One may have been about to be sent; otherwise there would be three.
    assert sum(hidden < start < shown for start in asked) <= 1


def test_words_from_the_cluster_are_never_markup(chromium: Browser, page: str, team: Team) -> None:
    chromium.open(f"{page}/?namespace={team.namespace.name}")
    eventually(lambda: chromium.all("tbody tr"))
    chromium.open(page + job_address(team, "hostile"))
    eventually(lambda: chromium.all(".attempts"))
    chromium.find(".attempts summary").click()
    shown = chromium.find("main").text
    assert shown.count(HOSTILE) >= 4, "in the message, a condition, an event, the attempt and its log"
    assert chromium.all("main img, main script, main b") == []
    assert chromium.run("return document.title") == "hostile – FineTuneJobs"


def test_a_phone_shows_all_of_it_without_scrolling_sideways(chromium: Browser, page: str, team: Team) -> None:
    chromium.resize(PHONE)
    for path in (f"/?namespace={team.namespace.name}", job_address(team, "support-osft")):
        chromium.open(page + path)
        eventually(lambda: chromium.all("main tbody tr"))
        assert chromium.run("return document.documentElement.scrollWidth") == PHONE[0]


def test_a_job_that_does_not_exist(chromium: Browser, operator: Operator, team: Team) -> None:
    chromium.open(f"http://127.0.0.1:{operator.page_port}{job_address(team, 'nowhere')}")
    shown = eventually(lambda: chromium.texts(".empty"))
    assert shown == [f"there is no FineTuneJob {team.namespace.name}/nowhere, or it is not this operator's"]


def test_nothing_can_be_changed(operator: Operator, team: Team) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer, _ = ask(operator, method, f"/api/v1{job_address(team, 'hostile')}")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
    answer, body = ask(operator, "HEAD", "/")
    assert (answer.status, body) == (200, b"")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8081", "", "localhost:8081@evil.example"]
)
def test_no_web_site_reads_it_through_its_visitor_s_browser(operator: Operator, host: str) -> None:
    answer, body = ask(operator, "GET", "/api/v1/finetunejobs", Host=host)
    assert answer.status in (400, 421)
    assert b"finetune.dev" not in body


def test_only_this_machine_reaches_it(operator: Operator) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    port = f":{operator.page_port:04X} "
    addresses = {line.split()[1] for line in listening.splitlines() if port in line and " 0A " in line}
    assert addresses == {f"0100007F{port.strip()}"}


def test_browsers_keep_it_to_itself_and_ask_for_what_has_changed(operator: Operator, team: Team) -> None:
    for path in ("/", "/main.js", "/page.css", f"/api/v1{job_address(team, 'hostile')}", "/nowhere"):
        answer, _ = ask(operator, "GET", path)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-cache"
    answer, body = ask(operator, "GET", "/main.js")
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    again, nothing = ask(operator, "GET", "/main.js", **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status, nothing, len(body) > 0) == (304, b"", True)


@pytest.mark.parametrize("path", ["..%2F..%2Fsecrets", "%2e%2e", "a%2Fstatus", "A", "a?x"])
def test_a_name_is_never_more_than_a_name(operator: Operator, team: Team, path: str) -> None:
    answer, _ = ask(operator, "GET", f"/api/v1/namespaces/{team.namespace.name}/finetunejobs/{path}")
    assert answer.status == 404


def test_many_tabs_cost_one_list(operator: Operator, team: Team) -> None:
    def lists() -> float:
        lines = operator.get("/metrics")[1].splitlines()
        wanted = 'finetune_api_requests_total{code="200",resource="finetunejobs",verb="get"}'
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(wanted))

    before = lists()
    answers = [json.loads(ask(operator, "GET", "/api/v1/finetunejobs")[1]) for _ in range(50)]
    assert all(answer["jobs"] for answer in answers)
    # The operator itself looks at a job now and then.
    assert lists() - before < 15


def test_while_nobody_answers_it_says_so_and_shows_what_it_knew(
    chromium: Browser, operator: Operator, team: Team
) -> None:
    chromium.open(f"http://127.0.0.1:{operator.page_port}{job_address(team, 'support-osft')}")
    eventually(lambda: chromium.find("#live").text == "Live")
    operator.kill()
    eventually(lambda: chromium.find("#live").text.startswith("Not up to date"))
    assert chromium.all(".chart svg")
    operator.start()
    eventually(lambda: chromium.find("#live").text == "Live")
    # It complains in the meantime, of course.
    chromium.errors()


@pytest.mark.skipif(SCREENSHOTS is None, reason="only where FINETUNE_SCREENSHOTS says where to")
def test_pictures_for_the_docs(chromium: Browser, page: str, team: Team) -> None:
    target = Path(SCREENSHOTS or "")
    target.mkdir(parents=True, exist_ok=True)
    team.namespace.delete("/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs", "hostile")
    pictures = [
        ("jobs", f"/?namespace={team.namespace.name}", DESKTOP, False, 600),
        ("job", job_address(team, "support-osft"), DESKTOP, False, 1180),
        ("dark", job_address(team, "support-osft"), DESKTOP, True, DESKTOP[1]),
        ("phone", job_address(team, "support-osft"), PHONE, False, 1500),
    ]
    for name, path, size, dark, height in pictures:
        chromium.resize(size, dark=dark)
        chromium.open(page + path)
        eventually(lambda: chromium.all("main tbody tr") and "hostile" not in chromium.find("main").text)
        chromium.screenshot(target / f"page-{name}.png", height=height)


def test_the_chart_has_it_served_only_if_asked_to() -> None:
    def environment(**values: Any) -> dict[str, str]:
        [container] = rendered("Deployment", **values)["spec"]["template"]["spec"]["containers"]
        return {one["name"]: one.get("value", "") for one in container["env"]}

    assert "FINETUNE_PAGE" not in environment()
    assert environment(page={"enabled": True})["FINETUNE_PAGE"] == "true"
