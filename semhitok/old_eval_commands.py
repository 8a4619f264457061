"""The measures of `semhitok eval`: their arguments, an example of each, and where they live."""

import argparse
from typing import Any

from runtime import argument_types as cli_types
from semhitok.old_options import (
    MODEL,
    TEST_DATA,
    TOKENIZER,
    add_children,
    add_command,
    add_count,
    add_data,
    add_model,
    add_number,
    add_out,
    add_sampler,
)

VQA_EXAMPLE = f"semhitok eval vqa --model {MODEL} --data {TEST_DATA} --out runs/eval-vqa"


def add_eval(commands: Any) -> None:
    """`semhitok eval` with all of its measures."""
    measures = add_children(
        add_command(commands, "eval", "measure a saved model", VQA_EXAMPLE), "measure"
    )
    _add_reconstruction(measures)
    _add_observation(measures)
    _add_vqa(measures)
    _add_generation(measures)
    _add_sensitivity(measures)
    _add_complete(measures)
    _add_compare(measures)


def _add_reconstruction(measures: Any) -> None:
    command = add_command(
        measures,
        "reconstruction",
        "scores of images and sets, and codebook usage, of an image tokenizer",
        f"semhitok eval reconstruction --tokenizer {TOKENIZER} --data {TEST_DATA} "
        "--out runs/eval-reconstruction",
        "eval.reconstruction.task:command",
    )
    add_model(command, "--tokenizer", "the image tokenizer")
    add_data(command, "folder that `semhitok prepare` wrote, or any folder of images")
    add_out(command)
    add_count(command, "--batch-size", 64, "images at once")
    _add_reconstruction_options(command)


def _add_observation(measures: Any) -> None:
    command = add_command(
        measures,
        "observation",
        "how much patches vary that share a semantic code, against all patches and shuffled codes",
        f"semhitok eval observation --tokenizer {TOKENIZER} --data {TEST_DATA} "
        "--out runs/observation",
        "eval.analysis.observation:command",
    )
    add_model(command, "--tokenizer", "the image tokenizer")
    add_data(command)
    add_out(command)
    add_count(command, "--batch-size", 64, "images at once")
    command.add_argument(
        "--max-images",
        type=cli_types.positive_int,
        metavar="N",
        help="images to take, evenly spaced (default: all)",
    )
    add_count(command, "--shuffles", 5, "permutations of the codes to compare with")
    add_number(command, "--seed", 0, "of the permutations and baselines")


def _add_vqa(measures: Any) -> None:
    command = add_command(
        measures,
        "vqa",
        "accuracy of answers to visual questions",
        VQA_EXAMPLE,
        "eval.vqa.task:command",
    )
    whose = command.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "--model", type=cli_types.model_folder, metavar="DIR", help="folder of the language model"
    )
    whose.add_argument(
        "--predictions",
        metavar="FILE",
        type=cli_types.existing_path,
        help="answers to score without a model: of an earlier run, or id and answer of any system",
    )
    command.add_argument(
        "--task",
        type=cli_types.words,
        default="easy-vqa",
        metavar="NAME|FILE",
        help="easy-vqa, vqav2, textvqa, gqa, pope, mme, seedbench, mmbench or mmmu; or JSONL with "
        "image, question, answers (default: easy-vqa)",
    )
    command.add_argument(
        "--data",
        type=cli_types.words,
        metavar="DIR|FILE|NAME",
        help="prepared data, the benchmark's file, or a hub name (default: the usual copy)",
    )
    command.add_argument(
        "--images",
        type=cli_types.existing_folder,
        metavar="DIR",
        help="where the images are that a file names (default: beside it)",
    )
    command.add_argument(
        "--split", type=cli_types.words, metavar="NAME", help="of a data set on the hub"
    )
    command.add_argument(
        "--scoring",
        choices=("exact", "soft", "option"),
        help="rule for a FILE of one's own (default: option where there are options, else exact)",
    )
    command.add_argument(
        "--answer-by",
        choices=("generation", "letters", "texts"),
        default="generation",
        help="written answers, or the likeliest option by its letter or text (default: generation)",
    )
    command.add_argument(
        "--circular",
        action="store_true",
        help="ask each question once for every rotation of its options",
    )
    command.add_argument(
        "--instruction", metavar="TEXT", help="put after each question (default: the task's own)"
    )
    command.add_argument(
        "--max-new-tokens",
        type=cli_types.positive_int,
        metavar="N",
        help="longest answer (default: the task's own)",
    )
    command.add_argument(
        "--train-data",
        type=cli_types.existing_folder,
        metavar="DIR",
        help="prepared data whose answers make the question-only baseline",
    )
    command.add_argument(
        "--out",
        type=cli_types.output_folder,
        metavar="DIR",
        help="folder to write (default, with --predictions: scored-TASK beside them)",
    )
    add_count(command, "--batch-size", 64, "questions at once")


def _add_generation(measures: Any) -> None:
    command = add_command(
        measures,
        "generation",
        "how many drawings show what their prompt asked for",
        f"semhitok eval generation --model {MODEL} --seeds 4 --out runs/eval-generation",
        "eval.drawing.easy_vqa:command",
    )
    add_model(command, "--model", "the language model", required=False)
    _add_drawing_task(command)
    add_out(command)
    add_count(command, "--batch-size", 24, "images drawn at once")
    add_sampler(command)


def _add_sensitivity(measures: Any) -> None:
    command = add_command(
        measures,
        "sensitivity",
        "every score again with images shuffled, blank, or half their codes from another image",
        f"semhitok eval sensitivity --model {MODEL} --data {TEST_DATA} --out runs/sensitivity "
        "--max-images 40",
        "eval.analysis.sensitivity:command",
    )
    add_model(command, "--model", "the language model")
    add_data(command)
    add_out(command)
    add_count(command, "--max-images", 200, "images to take, evenly spaced")
    add_count(command, "--batch-size", 64, "images or questions at once")
    add_number(command, "--seeds", 1, "drawings of each prompt; 0 leaves them out")
    add_number(command, "--seed", 0, "of who gets whose codes")


def _add_complete(measures: Any) -> None:
    command = add_command(
        measures,
        "all",
        "reconstruction, questions, drawings and what they are sensitive to, on one page",
        f"semhitok eval all --model {MODEL} --data {TEST_DATA} --out runs/eval-all",
        "eval.run_all:command",
    )
    add_model(command, "--model", "the language model")
    add_data(command)
    add_out(command)
    add_count(command, "--seeds", 4, "drawings of each prompt")
    add_number(command, "--max-images", 40, "images of the sensitivity table; 0 leaves it out")


def _add_compare(measures: Any) -> None:
    command = add_command(
        measures,
        "compare",
        "results side by side with intervals, where they were measured alike",
        "semhitok eval compare runs/quickstart/eval/reconstruction "
        "runs/quickstart/eval/reconstruction --out runs/compare",
        "eval.analysis.compare:command",
    )
    command.add_argument(
        "results",
        nargs="+",
        type=cli_types.existing_folder,
        metavar="DIR",
        help="folders that `semhitok eval` wrote",
    )
    add_out(command)


def _add_drawing_task(command: argparse.ArgumentParser) -> None:
    """Which benchmark is drawn, and what judges it."""
    command.add_argument(
        "--task",
        default="easy-vqa",
        metavar="NAME",
        help="easy-vqa, with a rule of its own, or geneval, dpg, mjhq, wise, t2i-compbench, "
        "geneval2, drawn into their own layouts (default: easy-vqa)",
    )
    command.add_argument("--prompts", metavar="FILE", help="the benchmark's own prompt file")
    command.add_argument(
        "--images",
        type=cli_types.existing_folder,
        metavar="DIR",
        help="score these drawings, in the benchmark's layout, and draw none",
    )
    command.add_argument(
        "--seeds",
        type=cli_types.positive_int,
        metavar="N",
        help="drawings of each prompt (default: the benchmark's number; of easy-vqa 4)",
    )
    add_number(command, "--seed", 0, "of the first drawing of a benchmark")
    command.add_argument(
        "--clip", metavar="NAME", help="CLIPScore by this CLIP, hub name or folder"
    )
    command.add_argument(
        "--detector",
        metavar="NAME",
        help="score geneval by this Mask2Former, or `default`; not the official detector",
    )
    command.add_argument(
        "--judge",
        metavar="NAME",
        help="score dpg or geneval2 by this vision-language model, or `self`",
    )
    command.add_argument(
        "--reference",
        type=cli_types.existing_folder,
        metavar="DIR",
        help="real images that --network measures the drawings against",
    )
    _add_set_distance(command)


def _add_reconstruction_options(command: argparse.ArgumentParser) -> None:
    """What images are measured at, and by which networks."""
    command.add_argument(
        "--resolution",
        type=cli_types.positive_int,
        metavar="N",
        help="pixels of a side (default: the tokenizer's own)",
    )
    command.add_argument(
        "--crop",
        choices=("adm", "shorter-side", "stretch"),
        help="how a picture becomes square (default: shorter-side for prepared data, else adm)",
    )
    _add_set_distance(command)
    command.add_argument(
        "--perceptual",
        metavar="NAME",
        help="perceptual distance too: lpips-vgg, efficientnet-lite0 or a vision encoder",
    )
    command.add_argument(
        "--max-images",
        type=cli_types.positive_int,
        metavar="N",
        help="images to take, evenly spaced (default: all)",
    )


def _add_set_distance(command: argparse.ArgumentParser) -> None:
    """Feature networks and the distances by them."""
    command.add_argument(
        "--network",
        type=cli_types.names,
        metavar="NAME,...",
        help="feature networks of set distances: inception (FID), inception-clean (with "
        "clean-fid's resize), efficientnet-lite0, or a CLIP, DINOv2 or like encoder by hub name or "
        "folder (default: none)",
    )
    command.add_argument(
        "--distance",
        type=cli_types.set_distances,
        default=["frechet"],
        metavar="NAME,...",
        help="frechet, kid or both (default: frechet)",
    )
