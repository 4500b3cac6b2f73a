"""The page in a real browser, from the real server: what is heard is one pass, and nobody else is asked."""

import base64
import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from data.dataset import PreparedCorpus
from data.mel import MelConfig
from recipes.distill_student import corpus_bands
from serve import Vocoder

pytestmark = pytest.mark.slow

Wave = NDArray[np.float32]
RATE = 8000
TOKEN = "open-sesame"
ARGUMENTS = [
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
ENTERED = f"sessionStorage.setItem('token', '{TOKEN}');"
LISTENING = """
window.heard = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  const samples = Array.from(this.buffer.getChannelData(0));
  heard.push({ when, now: performance.now(), rate: this.buffer.sampleRate, samples });
  return start.call(this, when);
};
"""
SLOW_LINE = """
const read = ReadableStreamDefaultReader.prototype.read;
ReadableStreamDefaultReader.prototype.read = async function () {
  await new Promise((resolve) => setTimeout(resolve, 300));
  const piece = await read.call(this);
  if (piece.done) window.ended = performance.now();
  return piece;
};
"""
BREAKING_LINE = """
const read = ReadableStreamDefaultReader.prototype.read;
let pieces = 0;
ReadableStreamDefaultReader.prototype.read = function () {
  return ++pieces > 1 ? Promise.reject(new TypeError("network error")) : read.call(this);
};
"""
MICROPHONES = """
window.microphones = [];
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await ask(wanted);
  microphones.push(...stream.getTracks());
  return stream;
};
"""
NO_SOUND = """
window.MediaRecorder = class {
  start() {}
  stop() {
    this.onstop();
  }
};
"""
CHANGES_ITS_MIND = """
document.querySelector("#speak").click();
document.querySelector("#model").value = "bob";
document.querySelector("#model").dispatchEvent(new Event("change"));
"""
DROP = """([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "audio/wav" }));
  for (const kind of ["dragover", "drop"]) {
    document.querySelector("#source").dispatchEvent(
      new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
  }
}"""

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def server(
    browser: Browser,
    start_server: Callable[..., Any],
    make_toy_student: Callable[..., Path],
    toy_corpus: Path,
    toy_mel: MelConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Of ada, who knows what she was trained on, bob, who does not, and carl, who has another sampling rate."""
    ada = tmp_path_factory.mktemp("voices") / "ada"
    shutil.copytree(make_toy_student(), ada)
    described = json.loads((ada / "config.json").read_text())
    bands = dataclasses.asdict(corpus_bands(PreparedCorpus(toy_corpus)))
    (ada / "config.json").write_text(json.dumps({**described, "bands": bands}))
    bob = make_toy_student(gain=0.5)
    carl = make_toy_student(mel=dataclasses.replace(toy_mel, sample_rate=2 * RATE, fmax=8000.0))
    return start_server(
        *("--checkpoint", ada, "--checkpoint", f"bob={bob}", "--checkpoint", f"carl={carl}"),
        *("--token", TOKEN, "--max-seconds", 20),
    )


@pytest.fixture
def open_page(browser: Browser, server: Any) -> Iterator[OpenPage]:
    """Opens the page; in the end nothing went wrong in it, and nobody but the server was asked."""
    opened: list[Page] = []
    faults: list[str] = []
    asked: list[str] = []

    def open_(*scripts: str, width: int = 1280, scheme: Any = "light", token: bool = True) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        for script in (LISTENING, ENTERED if token else "", *scripts):
            context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        opened.append(page)
        return page

    expect.set_options(timeout=60_000)
    yield open_
    for page in opened:
        page.context.close()
    refused = "Failed to load resource: "  # which is how a browser tells of every 4xx
    assert [fault for fault in faults if not fault.startswith(refused)] == []
    assert [url for url in asked if not url.startswith((f"{server.url}/", "blob:"))] == []


@pytest.fixture
def speech(toy_speech: Callable[..., Wave]) -> Callable[..., bytes]:
    """A wav file."""

    def said(seconds: float = 1.5) -> bytes:
        return wav(toy_speech(seconds, seed=4))

    return said


def wav(samples: Wave) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def give(page: Page, content: bytes, name: str = "hello.wav", kind: str = "audio/wav") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def speak(page: Page) -> None:
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#save")).to_be_visible()


def heard(page: Page, rate: int = RATE) -> Wave:
    """All that was ever scheduled, once it has been played to its end."""
    expect(page.locator(".play[aria-pressed=true]")).to_have_count(0)
    pieces = page.evaluate("heard")
    assert {piece["rate"] for piece in pieces} == {rate}
    for before, after in pairwise(pieces):
        assert after["when"] >= before["when"] + len(before["samples"]) / rate - 1e-6
    return np.concatenate([np.array(piece["samples"], np.float32) for piece in pieces])


def shown(page: Page, selector: str) -> NDArray[np.uint8]:
    """The pixels (H, W, 4) of a canvas."""
    text = page.locator(selector).evaluate(
        """(canvas) => {
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
          copy.drawImage(canvas, 0, 0);
          const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
          return [canvas.width, btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""))];
        }"""
    )
    return np.frombuffer(base64.b64decode(text[1]), np.uint8).reshape(-1, text[0], 4)


def test_a_file_is_spoken_again_and_what_is_heard_is_one_pass(
    open_page: OpenPage, speech: Callable[..., bytes], toy_vocoder: Vocoder
) -> None:
    page = open_page()
    expect(page.locator("#who")).to_have_text("speaks as ada, 8 kHz")
    expect(page.locator("#settings")).to_be_hidden()
    give(page, speech())
    expect(page.locator("#title")).to_have_text("hello.wav")
    expect(page.locator("#status")).to_have_text("hello.wav, 1.5 s. Ready to be spoken.")
    page.locator("#seed").fill("7")
    speak(page)
    samples, _ = soundfile.read(io.BytesIO(speech()), dtype="float32")
    one_pass = toy_vocoder((samples, RATE), seed=7)
    said = heard(page)
    assert np.abs(said[: len(one_pass)] - one_pass).max() < 2 / 32768
    assert not said[len(one_pass) :].any()
    assert float(page.locator("#position").input_value()) == pytest.approx(len(one_pass) / RATE, abs=0.05)
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "hello by ada.wav"
    saved, rate = soundfile.read(download.value.path(), dtype="float32")
    assert rate == RATE
    assert np.abs(saved - one_pass).max() < 2 / 32768


def test_it_is_heard_before_all_of_it_has_come(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page(SLOW_LINE)
    give(page, speech(6))
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_role("button", name="Play the voice")).to_have_attribute("aria-pressed", "true")
    positions = []
    while page.locator("#save").is_hidden():
        positions.append(float(page.locator("#position").input_value()))
        page.wait_for_timeout(20)
    first, ended = page.evaluate("[heard[0].now, ended]")
    assert first < ended
    assert positions == sorted(positions)
    heard(page)
    assert float(page.locator("#position").input_value()) == pytest.approx(6, abs=0.1)


def test_the_pictures_grow_with_the_sound_and_show_both_alike(
    open_page: OpenPage, speech: Callable[..., bytes]
) -> None:
    page = open_page()
    give(page, speech())
    expect(page.locator("#settings")).to_be_visible()
    before = shown(page, "#voice .spectrogram")
    assert not before[..., 3].any()
    speak(page)
    after, original = shown(page, "#voice .spectrogram"), shown(page, "#original .spectrogram")
    assert after.shape == original.shape == before.shape
    assert (after[..., 3] == 255).all() and (original[..., 3] == 255).all()
    for picture in (after, original):
        assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 50
    assert shown(page, "#voice .wave")[..., 3].any(axis=0).all()


def test_a_tone_stands_where_its_frequency_is(open_page: OpenPage) -> None:
    """The row of the brightest pixels, on an axis that is even in mel."""
    page = open_page(scheme="dark")
    give(page, wav(0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)))
    expect(page.locator("#settings")).to_be_visible()
    picture = shown(page, "#original .spectrogram").astype(int)
    row = picture[:, picture.shape[1] // 2, :3].sum(axis=1).argmax()
    share = np.log1p(1000 / 700) / np.log1p(RATE / 2 / 700)
    assert 1 - row / len(picture) == pytest.approx(share, abs=0.02)


def test_speed_changes_the_length_and_not_the_pitch(open_page: OpenPage) -> None:
    page = open_page()
    tone = 0.5 * np.sin(2 * np.pi * 250 * np.arange(2 * RATE) / RATE).astype(np.float32)
    give(page, wav(tone))
    page.locator("#speed").fill("1.5")
    page.get_by_role("button", name="Play the original").click()
    expect(page.locator("#clock")).to_have_text("2.0 / 2.0 s")
    said = heard(page)
    assert len(said) == pytest.approx(2 * RATE / 1.5, rel=0.05)
    middle = said[800:9600]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * RATE / len(middle) == pytest.approx(250, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


def test_both_are_played_from_the_same_moment(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page()
    give(page, speech(4))
    speak(page)
    original, voice = (page.get_by_role("button", name=f"Play the {name}") for name in ("original", "voice"))
    heard(page)
    original.click()
    expect(original).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(500)
    before = float(page.locator("#position").input_value())
    voice.click()
    expect(original).to_have_attribute("aria-pressed", "false")
    expect(voice).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(100)
    assert float(page.locator("#position").input_value()) >= before > 0.1
    voice.click()
    expect(voice).to_have_attribute("aria-pressed", "false")


def test_a_dropped_file_is_taken(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page()
    expect(page.locator("#who")).to_contain_text("ada")
    page.evaluate(DROP, [base64.b64encode(speech()).decode(), "dropped.wav"])
    expect(page.locator("#title")).to_have_text("dropped.wav")
    speak(page)


def test_a_recording_is_spoken(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#record")).to_contain_text("Stop 1.")
    page.locator("#record").click()
    expect(page.locator("#title")).to_have_text("Your recording")
    assert 0.5 < float((page.locator("#length").text_content() or "").split()[0]) < 20
    expect(page.locator("#record")).to_have_text("Record")
    speak(page)
    assert np.abs(heard(page)).max() > 0


def test_two_clicks_use_one_microphone_and_leave_none_on(open_page: OpenPage) -> None:
    page = open_page(MICROPHONES)
    expect(page.locator("#who")).to_contain_text("ada")
    page.evaluate("for (const _ of [1, 2]) document.querySelector('#record').click()")
    expect(page.locator("#record")).to_contain_text("Stop 1.")
    page.locator("#record").click()
    expect(page.locator("#title")).to_have_text("Your recording")
    assert page.evaluate("microphones.map((track) => track.readyState)") == ["ended"]


def test_a_recording_without_a_sound_is_over(open_page: OpenPage) -> None:
    page = open_page(NO_SOUND)
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#status")).to_have_text("Recording.")
    page.locator("#record").click()
    expect(page.locator("#sound-error")).to_contain_text("no sound in Your recording")
    expect(page.locator("#status")).to_be_empty()


def test_what_the_server_refuses_is_said_beside_its_control(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page()
    button = page.get_by_role("button", name="Speak", exact=True)
    give(page, b"this is no sound", "hello.txt", "text/plain")
    expect(page.locator("#sound-error")).to_contain_text("no sound in hello.txt")
    expect(page.locator("#settings")).to_be_hidden()

    give(page, speech())
    expect(page.locator("#sound-error")).to_be_empty()
    page.locator("#seed").fill("-3")
    button.click()
    expect(page.locator("#seed-error")).to_contain_text("Seed is '-3'")
    expect(page.locator("#seed")).to_have_attribute("aria-invalid", "true")
    page.locator("#seed").fill("3")
    speak(page)
    expect(page.locator("#seed-error")).to_be_empty()
    expect(page.locator("#seed")).not_to_have_attribute("aria-invalid", "true")

    give(page, wav(np.zeros(25 * RATE, np.float32)), "long.wav")
    expect(page.locator("#title")).to_have_text("long.wav")
    button.click()
    expect(page.locator("#sound-error")).to_contain_text("20 s")

    give(page, speech())
    page.route("**/v1/stream*", lambda route: route.abort())
    button.click()
    expect(page.locator("#speak-error")).to_have_text("The server does not answer: is it still running?")
    expect(button).to_be_enabled()


def test_the_page_warns_of_a_sound_that_the_voice_does_not_know(
    open_page: OpenPage, speech: Callable[..., bytes]
) -> None:
    page = open_page()
    give(page, speech())
    speak(page)
    expect(page.locator("#far")).to_be_hidden()
    give(page, wav(np.zeros(RATE, np.float32)))
    expect(page.locator("#save")).to_be_hidden()
    speak(page)
    expect(page.locator("#far")).to_contain_text("far from what ada was trained on")
    give(page, wav(np.zeros(RATE, np.float32)))
    expect(page.locator("#save")).to_be_hidden()
    with page.expect_request("**/v1/stream*"):
        page.evaluate(CHANGES_ITS_MIND)
    expect(page.locator("#who")).to_have_text("speaks as bob, 8 kHz")
    expect(page.locator("#save")).to_be_visible()
    expect(page.locator("#far")).to_contain_text("far from what ada was trained on")
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#name")).to_have_text("bob")
    expect(page.locator("#far")).to_be_hidden()


def test_a_line_that_breaks_costs_only_what_has_not_come(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page(BREAKING_LINE)
    give(page, speech(19))
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#speak-error")).to_have_text("The connection broke off: speak again.")
    expect(page.locator("#save")).to_be_visible()
    page.get_by_role("button", name="Play the voice").click()
    assert 0 < len(heard(page)) < 19 * RATE


def test_another_voice_has_another_sampling_rate(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page()
    give(page, speech())
    expect(page.locator("#title")).to_have_text("hello.wav")
    page.locator("#model").select_option("carl")
    expect(page.locator("#who")).to_have_text("speaks as carl, 16 kHz")
    speak(page)
    expect(page.locator("#facts")).to_have_text("1.5 s")
    said = heard(page, 2 * RATE)
    assert np.count_nonzero(said) == pytest.approx(1.5 * 2 * RATE, rel=0.02)


def test_a_server_that_is_still_loading_is_waited_for(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page()
    expect(page.locator("#who")).to_contain_text("ada")
    answers = [503]

    def answer(route: Route) -> None:
        if not answers:
            route.continue_()
            return
        problem = {"status": answers.pop(), "detail": "the models are being loaded: come back in a moment"}
        route.fulfill(status=503, headers={"Retry-After": "1"}, json=problem)

    page.route("**/v1/models", answer)
    page.reload()
    expect(page.locator("#status")).to_have_text("The models are being loaded: come back in a moment.")
    expect(page.locator("#who")).to_contain_text("ada")
    expect(page.locator("#status")).to_be_empty()
    give(page, speech())
    speak(page)


def test_a_keyboard_is_enough(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page()
    page.on("filechooser", lambda _: None)  # choosers come to the test from here on
    expect(page.locator("#who")).to_contain_text("ada")
    reached = []

    def tab_to(selector: str) -> None:
        """Every stop on the way shows that it has the focus."""
        for _ in range(12):
            page.keyboard.press("Tab")
            where, outlined, here = page.evaluate(
                """(selector) => {
                  const at = document.activeElement;
                  const marked = at.closest(".button") ?? at;
                  return [at.id || at.className || at.tagName, getComputedStyle(marked).outlineStyle,
                          at.matches(selector)];
                }""",
                selector,
            )
            reached.append(where)
            assert outlined == "solid", where
            if here:
                return
        raise AssertionError(f"{selector} is not reached: {reached}")

    tab_to("#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "keys.wav", "mimeType": "audio/wav", "buffer": speech()})
    expect(page.locator("#title")).to_have_text("keys.wav")
    tab_to("#seed")
    page.keyboard.press("Control+A")
    page.keyboard.type("41")
    tab_to("#next")
    page.keyboard.press("Space")
    assert page.locator("#seed").input_value() == "42"
    tab_to("#temperature")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("output[for=temperature]")).to_have_text("0.95")
    tab_to("#speak")
    page.keyboard.press("Enter")
    expect(page.locator("#save")).to_be_visible()
    heard(page)
    tab_to("#original .play")
    page.keyboard.press("Space")
    expect(page.locator("#original .play")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Space")
    tab_to("#voice .play")
    tab_to("#save")
    tab_to("#position")
    page.keyboard.press("Home")
    assert float(page.locator("#position").input_value()) == 0
    page.keyboard.press("ArrowRight")
    assert float(page.locator("#position").input_value()) > 0
    tab_to("#speed")
    assert reached == [
        *("A", "file", "record", "model", "seed", "next", "temperature", "speak"),
        *("play", "play", "save", "position", "speed"),
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_is_wide_enough(open_page: OpenPage, speech: Callable[..., bytes], scheme: str) -> None:
    page = open_page(width=360, scheme=scheme)
    give(page, speech(), "a-name-that-is-much-too-long-to-fit-into-the-width-of-a-telephone.wav")
    page.locator("#seed").fill("x" * 60)
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#seed-error")).not_to_be_empty()
    page.locator("#seed").fill("1")
    speak(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for control in page.locator("button:visible, .button:visible, input:visible:not(#file), select:visible").all():
        box = control.bounding_box()
        assert box is not None
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360
        assert box["height"] >= 40
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")


def test_a_token_is_asked_for_where_one_is_needed(open_page: OpenPage, speech: Callable[..., bytes]) -> None:
    page = open_page(token=False)
    token = page.get_by_label("This server asks for its token")
    expect(token).to_be_focused()
    expect(page.locator("#token-error")).to_be_empty()
    expect(page.locator("#source")).to_be_hidden()
    token.fill("wrong")
    token.press("Enter")
    expect(page.locator("#token-error")).to_have_text("That is not its token.")
    token.fill(TOKEN)
    token.press("Enter")
    expect(page.locator("#door")).to_be_hidden()
    give(page, speech())
    speak(page)
    page.reload()
    expect(page.locator("#who")).to_contain_text("ada")
    expect(page.locator("#door")).to_be_hidden()
