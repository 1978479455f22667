"""Write the processor's files: tokenizer, chat template, images, and videos of eight frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from emoverse.models.convert.settings import image_size, tiles, tokens_per_tile
from emoverse.models.convert.tokenizers import IMAGE, IMAGE_END, IMAGE_START, VIDEO, Vocabulary

FRAMES: Final = 8
# The original normalises as ImageNet does (internvl/train/constants.py), which is not the native processor's default.
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


def write_processor(vocabulary: Vocabulary, template: str, config: dict[str, Any], out: Path) -> None:
    """Save an InternVLProcessor for the original ``config`` below ``out``, with every file older readers look for."""
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.backend,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=vocabulary.special,
        model_specific_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE,
            "video_token": VIDEO,
        },
        **vocabulary.named,
        **vocabulary.settings,
    )
    side = image_size(config)
    shared = {"size": {"height": side, "width": side}, "image_mean": list(_MEAN), "image_std": list(_STD)}
    patches = {"min_patches": min(int(config.get("min_dynamic_patch", 1)), tiles(config)), "max_patches": tiles(config)}
    images = GotOcr2ImageProcessor(**shared, crop_to_patches=tiles(config) > 1, **patches)
    videos = InternVLVideoProcessor(**shared, do_sample_frames=True, num_frames=FRAMES)
    processor = InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=videos,
        image_seq_length=tokens_per_tile(config),
        chat_template=template,
    )
    processor.save_pretrained(out)
    images.save_pretrained(out)
    videos.save_pretrained(out)
