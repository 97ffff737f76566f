"""The 80 objects of COCO under GenEval's names (object_names.txt of github.com/djghosh13/geneval)."""

from collections.abc import Mapping

OBJECTS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote"),
    *("computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock"),
    *("vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""In COCO's order."""

# What COCO's annotations, or the label files of checkpoints, call some of them.
_ALIASES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "television": "tv",
    "hair dryer": "hair drier",
}


def object_names(labels: Mapping[int, str]) -> list[str | None]:
    """GenEval's names of a checkpoint's labels, None for what is no object of COCO (the "stuff" of panoptic ones).

    Args:
        labels: `id2label` of the checkpoint's config: names by index, from 0.

    Raises:
        ValueError: if one of the 80 objects has no label, or several; says which.
    """
    names = [_geneval_name(labels.get(index, "")) for index in range(max(labels, default=-1) + 1)]
    missing = [name for name in OBJECTS if name not in names]
    twice = [name for name in OBJECTS if names.count(name) > 1]
    if missing or twice:
        problems = [f"no label for {', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}"] if missing else []
        problems += [f"several labels for {', '.join(twice)}"] if twice else []
        raise ValueError(
            f"its id2label is not that of COCO's 80 objects: {'; '.join(problems)}. Choose a checkpoint that was "
            "trained on COCO's instances, with its labels' names."
        )
    return names


def _geneval_name(label: str) -> str | None:
    name = label.strip().lower().replace("_", " ")
    name = _ALIASES.get(name, name)
    return name if name in OBJECTS else None
