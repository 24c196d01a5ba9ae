"""The Lightning command line: `fit`, `validate`, `test` and `predict`."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from callbacks import (
    Answers,
    Checkpoints,
    Diverged,
    Guard,
    Interruption,
    Progress,
    Statistics,
    TextSamples,
    Throughput,
    TrainingCurve,
    fit_with_rollback,
)
from datamodules.artefacts import UNWRITABLE
from datamodules.errors import DataError
from llm.argument_errors import null_option
from llm.argument_parser import ArgumentParser
from llm.base_model import fill_from_base, stand_in_for_base
from llm.batch import fill_batch
from llm.checkpoint import TENSORS, read_checkpoint
from llm.checkpoint_io import BackgroundCheckpointIO
from llm.choices import PARTS, chosen
from llm.configuration import resolve_config_flags, run_name
from llm.distributed import check_strategy, name_class, register_strategies
from llm.errors import UserError
from llm.failure import EndTogether
from llm.host_memory import keep_freed_memory
from llm.logs import set_up_logging
from llm.metrics_file import MetricsFile
from llm.model import ConfigError
from llm.modules import LanguageModule
from llm.ranks import follow_launcher
from llm.report import of_all_ranks, print_details, print_summary, write_predictions
from llm.run import newest_checkpoint, newest_run, release_if_empty, reserve_run_folder
from llm.run_files import RunFiles

# Those that have settings on the command line, and their names there.
CALLBACKS: dict[str, type[L.Callback]] = {
    "samples": TextSamples,
    "answers": Answers,
    "throughput": Throughput,
    "curve": TrainingCurve,
    "checkpoints": Checkpoints,
    "guard": Guard,
    "statistics": Statistics,
}

LARGEST_SEED = 2**32 - 1  # that NumPy takes

# Hyperparameters that are Lightning's own, or that follow from the data.
_NOT_FROM_CHECKPOINT = ("_instantiator", "_class_path", "vocab_size", "context_length")


class LabyrinthCLI(LightningCLI):
    """LightningCLI with run folders, and with the user's word above the checkpoint's."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = name_class(resolve_config_flags(arguments))
        self.run_folder: Path | None = None
        self.continues = False
        self.exit_code = 0
        self.interruption = Interruption()
        register_strategies()
        super().__init__(
            model_class=LanguageModule,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=ArgumentParser,
            save_config_callback=RunFiles,
            seed_everything_default=1,
            auto_configure_optimizers=False,
            # Validation after every N optimizer steps is the module's `validate_every`.
            trainer_defaults={
                "max_epochs": -1,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                "gradient_clip_val": 1.0,
                "enable_model_summary": False,
            },
            args=self.arguments,
        )

    # ---- options ----------------------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name, the callbacks that have settings, and the links from data to model."""
        parser.add_argument("--name", type=str, default=run_name(self.arguments), help="name of the run")
        parser.add_argument("--runs", type=str, default="runs", help="folder in which runs lie")
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.set_defaults({"checkpoints.monitor": "val_bpb"})
        for name in ("vocab_size", "context_length"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    # ---- checkpoints: what the user wrote wins -----------------------------------------------------------------

    def _parse_ckpt_path(self) -> None:
        """Fill in what the user did not write from the checkpoint's hyperparameters, and say where they differ."""
        options = self.config[self.config.subcommand]
        path = options.get("ckpt_path")
        if path == "auto":  # what a job that may be started again asks for
            path = options.ckpt_path = "last" if newest_run(options.runs, options.name) else None
        # Only `last` goes on with a run in its own folder; from any other checkpoint a new run branches off.
        self.continues = path == "last" and self.config.subcommand == "fit"
        if path in ("last", "best"):
            path = options.ckpt_path = str(newest_checkpoint(options.runs, options.name, path))
        if not path:
            if self.config.subcommand != "fit":
                raise UserError(
                    f"{self.config.subcommand} needs a trained model: give --ckpt_path PATH, or --ckpt_path best for "
                    "the best one of the newest run of this name"
                )
            return
        checkpoint = read_checkpoint(Path(path), without=TENSORS)
        hyperparameters = checkpoint.get("hyper_parameters", {})
        saved = {key: plain(value) for key, value in hyperparameters.items() if key not in _NOT_FROM_CHECKPOINT}
        written = self.parser.parse_args(self.arguments, defaults=False)[self.config.subcommand]
        mine = written.get("model", Namespace()).get("init_args", Namespace())
        for key, value in saved.items():
            if key not in mine:
                options.model.init_args[key] = value
            elif plain(mine[key]) != value:
                print(f"model.{key}: {plain(mine[key])!r} as written, not {value!r} as in the checkpoint")
        stand_in_for_base(options, checkpoint, path)

    # ---- what the parser lets pass -----------------------------------------------------------------------------

    def _set_seed(self) -> None:
        """As Lightning does, if the seed and all other settings can be used."""
        self._refuse_nulls()
        seed = self.config[self.config.subcommand].seed_everything
        if not isinstance(seed, bool) and not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"seed_everything is {seed}; it can be 0 to {LARGEST_SEED}")
        super()._set_seed()

    def _refuse_nulls(self) -> None:
        """UserError for a null where there must be a value: the parser lets it pass for every type."""
        options = self.config[self.config.subcommand]
        whole = ("name", "runs", "seed_everything", "trainer", *CALLBACKS)
        nulls = [name for name in whole if options[name] is None]
        for name, callback in CALLBACKS.items():
            found = null_option(options[name].as_dict(), callback) if options[name] is not None else None
            nulls += [f"{name}.{found}"] if found else []
        for part in PARTS:
            given = options[part]
            if (cls := chosen(part, given)) is not None:
                found = null_option(given.init_args.as_dict(), cls)
                nulls += [f"{part}.{found}"] if found else []
        if nulls:
            raise UserError(f"{nulls[0]} is null; give it a value, or leave it out for the usual one")

    # ---- the run's folder --------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Reserve the folder of the run and let everything be written there."""
        options, written = self.fill_in()
        follow_launcher(options.trainer, written.get("trainer", Namespace()))
        check_strategy(options.trainer)
        if self.continues:
            folder = Path(options.ckpt_path).parent.parent
        elif self.subcommand == "fit":
            folder = reserve_run_folder(options.runs, options.name)
        else:
            folder = Path(options.runs)
        self.run_folder = folder
        options.trainer.default_root_dir = str(folder)

    def fill_in(self) -> tuple[Namespace, Namespace]:
        """Settings that follow from others, filled in; all settings of the subcommand, and those that were written."""
        options = self.config[self.config.subcommand]
        written = self.parser.parse_args(self.arguments, defaults=False)[self.config.subcommand]
        fill_from_base(options, written)
        fill_batch(options, written)
        return options, written

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer with the run's metrics file, unless another logger was asked for."""
        trainer_config = self._get(self.config_init, "trainer")
        if trainer_config.get("logger") in (None, True):
            fitting = self.subcommand == "fit"
            kwargs["logger"] = MetricsFile(str(self.run_folder)) if fitting else False
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: Any, callbacks: list[L.Callback]) -> L.Trainer:
        if config.get("enable_progress_bar") is not False:
            callbacks = [*callbacks, Progress()]
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoints)]
        try:
            trainer = super()._instantiate_trainer(config, [*callbacks, self.interruption])
        except (TypeError, ValueError, RuntimeError) as error:  # of a setting that it does not take
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        trainer.strategy.checkpoint_io = BackgroundCheckpointIO()
        return trainer

    # ---- running -----------------------------------------------------------------------------------------------

    def instantiate_classes(self) -> None:
        """As Lightning does; a run that cannot be set up leaves no folder behind."""
        try:
            super().instantiate_classes()
        except BaseException as error:
            self._release()
            raise users_error(error) or error from None

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; of several processes, all end where one fails."""
        with EndTogether(self.trainer, self._release):
            self._run_and_end(subcommand)

    def _run_and_end(self, subcommand: str) -> None:
        """Lightning's ways of ending become the exit codes that a shell and a scheduler expect."""
        try:
            super()._run_subcommand(subcommand)
        except SIGTERMException:  # before the first step
            self.exit_code = 128 + signal.SIGTERM
        except SystemExit:
            if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                raise
            self._tell_of_interruption()
            self.exit_code = self.interruption.exit_code if self.interruption.received else 128 + signal.SIGINT
        except OSError as error:
            if error.errno not in UNWRITABLE or error.filename is not None:
                raise
            raise UserError(  # the run's own files: the data tells of those that it writes
                f"cannot write to {self.run_folder}: {error.strerror}; make room there, or choose another folder "
                "with --runs"
            ) from error
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:150]
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in reason:
                raise
            raise UserError(f"out of memory ({reason}); lower data.batch_size, or make the model smaller") from error
        finally:
            self._release()

    def _tell_of_interruption(self) -> None:
        if not self.trainer.is_global_zero:
            return
        saved = self.subcommand == "fit" and self.interruption.received
        print("interrupted" + ("; --ckpt_path last goes on from here" if saved else ""), file=sys.stderr)

    def _release(self) -> None:
        if self.subcommand == "fit" and self.run_folder is not None:
            release_if_empty(self.run_folder)

    def fit(self, model: L.LightningModule, **settings: Any) -> None:
        """Train; where the guard asks for it, go back to a checkpoint and on from there."""
        fit_with_rollback(self.trainer.fit, model, **settings)

    def predict(self, model: L.LightningModule, datamodule: L.LightningDataModule, **settings: Any) -> None:
        """Score every row of the validation text and write a table of them."""
        settings["return_predictions"] = True
        predictions = self.trainer.predict(model, datamodule=datamodule, **settings)
        predictions = of_all_ranks(predictions, self.trainer)  # type: ignore[arg-type]
        path = Path(self.config.predict.runs) / f"{self.config.predict.name}-rows.csv"
        if self.trainer.is_global_zero:
            write_predictions(predictions, self.trainer, path)
            print(path)

    def after_validate(self) -> None:
        """Tell what a table of scores does not."""
        if self.trainer.is_global_zero:
            print_details(self.trainer, self.model, "val")

    def after_test(self) -> None:
        """The same of what was tested."""
        if self.trainer.is_global_zero:
            print_details(self.trainer, self.model, "test")

    def after_fit(self) -> None:
        """Say what came out, and what to do next."""
        if self.trainer.is_global_zero:
            print_summary(self.trainer, self.model)


def users_error(error: BaseException | None) -> BaseException | None:
    """The error for the user that `error` was raised from; jsonargparse wraps it in one of its own."""
    while error is not None and not isinstance(error, (UserError, DataError, ConfigError)):
        error = error.__cause__ or error.__context__
    return UserError(f"model.{error}") if isinstance(error, ConfigError) else error


def plain(value: Any) -> Any:
    """A parsed setting as the primitives that a checkpoint keeps."""
    if isinstance(value, Namespace):
        return value.as_dict()
    return list(value) if isinstance(value, tuple) else value


def main(arguments: list[str]) -> int:
    """Run `fit`, `validate`, `test` or `predict`, and return the exit code."""
    set_up_logging()
    keep_freed_memory()
    try:
        return LabyrinthCLI(arguments).exit_code
    except (MisconfigurationException, Diverged) as error:
        raise UserError(" ".join(str(error).split())) from error
