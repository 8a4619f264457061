"""The commands that use a language model: draw, answer, chat, serve.

The examples work after `semhitok quickstart`.
"""

from semhitok.command import Command

_MODEL = "runs/quickstart/mllm/model"

COMMANDS = (
    Command(
        name="generate",
        about="draw images from prompts",
        example=f'semhitok generate --model {_MODEL} --prompt "a teal triangle" --num-images 4 '
        "--out runs/drawn",
        settings="mllm.serving.settings:GenerateSettings",
        function="mllm.serving.generate:generate",
    ),
    Command(
        name="ask",
        about="answer questions about images",
        example=f"semhitok ask --model {_MODEL} --image runs/quickstart/images/test-0.png "
        '--question "what is the red shape?"',
        settings="mllm.serving.settings:AskSettings",
        function="mllm.serving.ask:ask",
    ),
    Command(
        name="chat",
        about="talk about images in the terminal, and draw some",
        example=f"semhitok chat --model {_MODEL} --no-history",
        settings="mllm.serving.settings:ChatSettings",
        function="mllm.serving.chat:chat",
    ),
    Command(
        name="serve",
        about="draw, ask, vary and look at codes on a page in the browser",
        example=f"semhitok serve --model {_MODEL}",
        settings="mllm.serving.settings:ServeSettings",
        function="mllm.serving.server:serve",
    ),
)
