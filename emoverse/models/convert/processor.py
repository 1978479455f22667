"""Write the processor of a converted model: the same files, whatever layout they were read from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from emoverse.models.convert.architecture import Architecture
from emoverse.models.convert.tokenizers import IMAGE, IMAGE_END, IMAGE_START, VIDEO, Vocabulary

FRAMES: Final = 8


def write_processor(vocabulary: Vocabulary, template: str, architecture: Architecture, out: Path) -> None:
    """Save an InternVLProcessor below ``out``, with the separate files that older readers look for."""
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
    pixels = {
        "size": {"height": architecture.image_size, "width": architecture.image_size},
        "image_mean": list(architecture.mean),
        "image_std": list(architecture.std),
    }
    patches = {"min_patches": architecture.min_tiles, "max_patches": architecture.tiles}
    images = GotOcr2ImageProcessor(**pixels, crop_to_patches=architecture.tiles > 1, **patches)
    videos = InternVLVideoProcessor(**pixels, do_sample_frames=True, num_frames=FRAMES)
    processor = InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=videos,
        image_seq_length=architecture.tokens_per_tile,
        chat_template=template,
    )
    for part in (processor, images, videos):
        part.save_pretrained(out)
