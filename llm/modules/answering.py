"""AnsweringModule: what the modules have in common whose model answers in words."""

from llm.generation import Engine
from llm.model.parallel import whole_copy
from llm.modules.finetuning import FineTuneModule

ANSWERED_AT_ONCE = 32  # questions, which decides speed alone


class AnsweringModule(FineTuneModule):
    """A FineTuneModule that can be asked while it trains."""

    def answer(self, prompts: list[list[int]], max_new_tokens: int) -> list[tuple[list[int], bool]]:
        """The likeliest ids after each prompt, and whether the model ended them by itself with an end token."""
        assert self.model is not None
        tokenizer = self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        model = self.model if self._device_mesh is None else whole_copy(self.model)
        stop = {tokenizer.special["<|end|>"], tokenizer.end_of_text}
        most = self.config.context_length
        engine = Engine.for_prompts(
            model, prompts, max_new_tokens, batch_size=ANSWERED_AT_ONCE, stop_ids=stop, temperature=0.0
        )
        texts = [engine.submit(prompt[:most], min(max_new_tokens, most - len(prompt[:most])))[0] for prompt in prompts]
        while engine.step():
            pass
        return [(text.tokens, text.finish_reason == "stop") for text in texts]
