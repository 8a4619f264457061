"""The page of `semhitok serve`, in a real browser and from a socket."""

import base64
import json
import shutil
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from mllm.serving.answering import Answerer
from mllm.serving.server import Studio, make_server
from runtime.errors import UserError
from tests.mllm.tiny import make_model, picture

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT = 240
QUESTION = "what color is it?"


@pytest.fixture(scope="module")
def studio(world, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    make_model(world).save_pretrained(folder)
    processor.save_pretrained(folder)
    return Studio(folder)


@pytest.fixture(scope="module")
def address(studio):
    with make_server(studio, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync "
    flags += "disable-background-networking disable-component-update disable-dev-shm-usage"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.add_argument("--window-size=1100,1000")
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(WAIT)
    yield driver
    driver.quit()


def wait_for(browser, count: int, selector: str) -> list:
    """`count` elements; pictures among them loaded."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def found(_):
        elements = browser.find_elements(By.CSS_SELECTOR, selector)
        loaded = all(e.tag_name != "img" or e.get_property("naturalWidth") for e in elements)
        return elements if len(elements) == count and loaded else None

    return WebDriverWait(browser, WAIT).until(found)


def write(browser, element: str, text: str) -> None:
    from selenium.webdriver.common.by import By

    browser.find_element(By.ID, element).send_keys(text)


@pytest.mark.slow
def test_a_browser_draws_uploads_asks_and_varies(studio, address, browser, tmp_path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    write(browser, "prompt", "a red bar")
    browser.find_element(By.ID, "draw-button").click()
    drawn = wait_for(browser, 4, "#drawn img")
    shown = base64.b64decode(drawn[2].get_attribute("src").partition(",")[2])
    expected = studio.draw({"prompt": "a red bar", "seed": 2})["images"][0]
    assert base64.b64decode(expected.partition(",")[2]) == shown

    image = picture("blue", "box")
    image.save(tmp_path / "image.png")
    write(browser, "file", str(tmp_path / "image.png"))
    wait_for(browser, 4, "#chosen img")
    write(browser, "question", QUESTION)
    browser.find_element(By.ID, "ask-button").click()
    reply = Answerer(studio.model, studio.processor).ask([image], [QUESTION], 64)[0]
    assert reply
    WebDriverWait(browser, WAIT).until(
        lambda b: b.find_element(By.ID, "answer").text.split() == reply.split()
    )
    browser.find_element(By.ID, "vary-button").click()
    wait_for(browser, 4, "#varied img")[1].click()  # a variation becomes the image
    WebDriverWait(browser, WAIT).until(lambda b: not b.find_element(By.ID, "answer").text)

    browser.find_element(By.ID, "prompt").clear()
    browser.find_element(By.ID, "draw-button").click()
    WebDriverWait(browser, WAIT).until(
        lambda b: "prompt is empty" in b.find_element(By.ID, "error").text
    )
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    # The refused prompt is a 400 by design, and the icon was never promised.
    assert all("400" in line["message"] or "favicon" in line["message"] for line in severe), severe


def post(url: str, value: object, kind: str = "application/json") -> tuple[int, dict]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def as_address(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def test_the_code_maps_of_an_image_are_as_large_as_it(address, tmp_path) -> None:
    picture("red", "bar").save(tmp_path / "image.png")
    status, seen = post(f"{address}/look", {"image": as_address(tmp_path / "image.png")})
    assert status == 200
    assert 1 <= seen["num_semantic"] <= seen["num_codes"] <= seen["num_positions"] == 4
    for name, count in (("semantic", seen["num_semantic"]), ("pixel", seen["num_codes"])):
        (tmp_path / name).write_bytes(base64.b64decode(seen[name].partition(",")[2]))
        with Image.open(tmp_path / name) as drawn:
            assert drawn.size == (16, 16)
            assert len(drawn.getcolors()) == count


def test_requests_that_make_no_sense_are_one_sentence(address, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for path, value, complaint in (
        ("/draw", {"prompt": " "}, "prompt is empty"),
        ("/draw", {"prompt": "a bar", "count": 99}, "count must be a number from 1 to 16"),
        ("/draw", {"prompt": "a bar", "temperature": "hot"}, "temperature must be a number"),
        ("/draw", {"prompt": "red " * 500}, "at most 128"),
        ("/ask", {"question": "what?"}, "no image yet"),
        ("/ask", {"question": "what?", "image": "data:,%%"}, "did not arrive whole"),
        ("/look", {"image": as_address(tmp_path / "text.png")}, "no image of a known format"),
        ("/look", b"{", "makes no sense"),
        ("/look", b"[" * 100_000, "makes no sense"),
        ("/draw", {"prompt": "a \ud800 bar"}, "unpaired surrogate"),
        ("/look", [1], "no JSON object"),
    ):
        status, reply = post(address + path, value)
        assert (status, complaint in reply["error"]) == (400, True), reply
    assert post(f"{address}/nowhere", {})[0] == 404
    # A page of another site can send a form, and is not served.
    assert post(f"{address}/draw", {"prompt": "a bar"}, "text/plain")[0] == 404


def raw(address: str, *lines: str, body: bytes = b"", leave: bool = False) -> bytes:
    """What the server answers to a request as it stands."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as client:
        client.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        return b"" if leave else b"".join(iter(lambda: client.recv(4096), b""))


def test_requests_that_no_browser_sends_are_answered_and_leave_no_traceback(
    address, monkeypatch, capfd
) -> None:
    assert raw(address, "GET /?a=1 HTTP/1.1").startswith(b"HTTP/1.1 200")
    post_line = "POST /draw HTTP/1.1"
    for length in ("²", "-1", "1e3", ""):
        answer = raw(address, post_line, f"Content-Length: {length}")
        assert answer.startswith(b"HTTP/1.1 411") and b"does not say how long" in answer
    monkeypatch.setattr("mllm.serving.server.MAX_BODY", 1000)
    large = raw(address, post_line, "Content-Length: 3000000", body=bytes(3_000_000))
    assert large.startswith(b"HTTP/1.1 413") and b"too large" in large
    raw(address, post_line, "Content-Length: 900", body=b"{", leave=True)
    assert raw(address, "GET / HTTP/1.1").startswith(b"HTTP/1.1 200")
    assert "Traceback" not in capfd.readouterr().err


def test_a_port_in_use_is_one_sentence(studio, address) -> None:
    with pytest.raises(UserError, match=r"cannot listen at .* choose another --port"):
        make_server(studio, "127.0.0.1", int(address.rsplit(":", 1)[1]))
