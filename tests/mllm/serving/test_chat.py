"""`semhitok chat`, from Python, through a pipe and on a terminal."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from PIL import Image

from mllm.drawing.drawer import Drawer
from mllm.drawing.requests import ImageRequest
from mllm.model.sampler import Sampler
from mllm.serving.answering import Answerer
from mllm.serving.chat import ChatSession, lines
from mllm.serving.settings import ChatSettings
from runtime.errors import UserError
from tests.mllm.tiny import REPOSITORY, make_model, picture


@pytest.fixture(scope="module")
def folder(world, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    make_model(world).save_pretrained(folder)
    processor.save_pretrained(folder)
    picture("red", "box").save(folder / "red.png")
    picture("blue", "bar").save(folder / "blue.png")
    return folder


@pytest.fixture
def session(folder, tmp_path):
    answerer = Answerer.load(folder, "cpu")
    drawer = Drawer(answerer.model, answerer.processor, Sampler(guidance_scale=1.0))
    settings = ChatSettings(model=folder, out=tmp_path / "drawn", max_new_tokens=4)
    return ChatSession(answerer, drawer, settings)


def test_the_model_sees_the_conversation_and_its_images_in_order(session, folder, monkeypatch):
    seen = []
    real = session.answerer.answer

    def answer(prompts, images, *args, **options):
        seen.append((prompts[0], [tokens.tolist() for tokens in images[0]]))
        return real(prompts, images, *args, **options)

    monkeypatch.setattr(session.answerer, "answer", answer)
    for line in (f"/image {folder}/red.png", "what is it?", "why?", f"/image {folder}/blue.png",
                 f"/image {folder}/red.png", "are these alike? <image>"):  # fmt: skip
        assert session.take(line)
    red, blue = (
        session.answerer.image_tokens([picture(*kind)])[0].tolist()
        for kind in (("red", "box"), ("blue", "bar"))
    )
    assert [images for _, images in seen] == [[red], [red], [red, blue, red]]
    roles = [message["role"] for message in session.messages]
    assert roles == ["user", "assistant"] * 3
    assert session.messages[4]["content"] == "<image><image>are these alike? "
    assert len(seen[0][0]) < len(seen[1][0]) < len(seen[2][0])
    session.take("/new")
    session.take("why?")
    assert seen[3][1] == [] and len(seen[3][0]) < len(seen[0][0])


def test_without_history_a_question_is_about_the_last_image_alone(session, folder):
    session.settings.history = False
    assert session.take(f"/image {folder}/red.png")
    prompts = []
    real = session.answerer.prompt
    session.answerer.prompt = lambda messages: prompts.append(messages) or real(messages)
    session.take("what is it?")
    session.take("why?")
    assert [p[0]["content"] for p in prompts] == ["<image>what is it?", "<image>why?"]
    assert [len(p) for p in prompts] == [1, 1]


def test_a_drawing_is_a_file_and_can_be_asked_about(session, tmp_path, capsys):
    session.take("/draw a red bar")
    session.take("/draw a red bar")
    paths = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in paths] == ["drawing-000.png", "drawing-001.png"]
    assert f"(drew {paths[1]})" in capsys.readouterr().out
    [(_, codes)] = session.drawer.draw([ImageRequest("a red bar", 1)])
    with Image.open(paths[1]) as image:
        assert image.tobytes() == session.drawer.pictures(codes[None])[0].tobytes()
    session.take("what is it?")
    assert len(session.images) == 2


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/image", "Name the file"),
        ("/image nowhere.png", "nowhere.png is not there"),
        ("/draw", "Say what to draw"),
        ("/draw " + "red " * 500, "at most 128"),
        ("/paint", "There is no /paint"),
        ("why " * 900, "at most 128: shorten the question, or begin anew with /new"),
        ("why \ud800", "unpaired surrogate"),
        ("/draw \ud800", "unpaired surrogate"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_the_talk_goes_on(session, line, complaint):
    session.take("what?")
    before = list(session.messages)
    with pytest.raises(UserError, match=complaint):
        session.take(line)
    assert session.messages == before
    session.take("why?")


def test_what_is_piped_in_and_no_text_is_one_sentence(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), "utf-8"))
    with pytest.raises(UserError, match="standard input is not UTF-8 text"):
        list(lines())


def test_a_mark_of_the_beginning_is_no_part_of_the_first_line(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeff/image a.png\nwhat?\n"))
    assert list(lines()) == ["/image a.png\n", "what?\n"]


def command(folder, tmp_path) -> tuple[list[str], dict]:
    arguments = ["chat", "--model", str(folder), "--out", str(tmp_path), "--max-new-tokens", "4"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return [sys.executable, "-m", "semhitok", *arguments], environment


@pytest.mark.slow
def test_lines_through_a_pipe_are_answered_one_by_one(folder, tmp_path):
    lines = [f"/image {folder}/red.png", "what is it?", "/image gone.png", "/draw a bar", "/help"]
    arguments, environment = command(folder, tmp_path)
    finished = subprocess.run(
        arguments, env=environment, input="\n".join(lines), capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    said = finished.stdout.splitlines()
    assert said[0] == f"(sees {folder}/red.png)"
    gone = said.index("(gone.png is not there, or is not a file)")
    assert gone >= 2  # the answer stands before it
    assert said[gone + 1] == f"(drew {tmp_path}/drawing-000.png)"
    assert "/quit" in finished.stdout
    assert (tmp_path / "drawing-000.png").is_file()


@pytest.mark.slow
def test_a_terminal_is_asked_for_lines(folder, tmp_path):
    arguments, environment = command(folder, tmp_path)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    said = ""

    def until(pattern: str) -> None:
        nonlocal said
        while not re.search(pattern, said):
            said += os.read(ours, 4096).decode(errors="replace")

    try:
        until(r"/quit[^>]*> ")
        os.write(ours, b"/draw a red bar\n")
        until(r"drew .*drawing-000\.png\)\s+\S*> ")
        os.write(ours, b"what is it?\n")
        until(r"what is it\?(.|\s)*\n(.|\s)*> ")
        os.write(ours, b"\x04")  # Ctrl-D
        assert process.wait() == 0
    finally:
        process.kill()
        os.close(ours)
