"""The command ``keras-prune``. It loads neither TensorFlow nor Keras."""

from __future__ import annotations

import argparse
import sys

from keras_prune_export import bundle, delegate_library


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keras-prune", description="Packed models for devices.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "bundle",
        help="write a folder with a model, the delegate for a device, and a script that runs it",
        description="Writes a folder with the model, the delegate for the device's processor, and run.py, which prints "
        "accuracy and latency on an .npz file and needs only NumPy and ai-edge-litert or tflite-runtime.",
    )
    command.add_argument("model", help="a packed .tflite file")
    command.add_argument("--target", required=True, choices=list(delegate_library.TARGETS), help="the device's kind")
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="a new folder, or an earlier bundle")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; None: the process's.

    Returns:
        The exit code: 0, or 1 after an error was shown.
    """
    args = _parser().parse_args(argv)
    try:
        folder = bundle.bundle(args.model, args.output, target=args.target)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"keras-prune: {error}", file=sys.stderr)  # noqa: T201
        return 1
    sizes = [f"{part.name} {part.stat().st_size:,} bytes" for part in sorted(folder.iterdir())]
    print(f"{folder} for {args.target}: {', '.join(sizes)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
