"""The LightningModules: a GPT, what it learns from, and how it is scored."""

from llm.modules.base import LanguageModule
from llm.modules.classification import ClassificationModule
from llm.modules.finetuning import FineTuneModule
from llm.modules.instruction import InstructionModule
from llm.modules.metrics import BitsPerByte
from llm.modules.preference import PreferenceModule
from llm.modules.pretraining import PretrainModule

__all__ = [
    "BitsPerByte",
    "ClassificationModule",
    "FineTuneModule",
    "InstructionModule",
    "LanguageModule",
    "PreferenceModule",
    "PretrainModule",
]
