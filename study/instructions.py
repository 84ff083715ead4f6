"""The texts of a conversation, a table: what the paper asks, and its variants.

Section 3.2 and Figure 2; Tables 7, 10, 11, 13 and 18; Figures 6, 7 and 8. `data.py` fills them in.
This file imports nothing of the project.
"""

from typing import NamedTuple


class Turn(NamedTuple):
    """A USER's text and the ASSISTANT's answer, "" where there is none to give."""

    question: str
    answer: str = ""


class Instruction(NamedTuple):
    """How a conversation reads.

    opening: turns before the rounds; rounds: one of these for each keypoint, drawn at random in
    training, the first at inference; replaced: the share of descriptions that training exchanges
    for REPLACED (all of them: at inference, too); pretraining: it trains W_proj alone.

    Filled in are, in an opening, {category}, {list}, the names of its keypoints, and {visible}, of
    those that the image shows; in a round {name}, {description}, {because}, the same within a
    sentence, and {point}, the coordinates.
    """

    opening: tuple = ()
    rounds: tuple = ()
    replaced: float = 0.0
    pretraining: bool = False


ASK = "Can you identify location of {name} on the object?"
TELL = " {description} With this description, please provide its coordinates."
# What is asked instead of TELL where there is no description.
TELL_NOTHING = " Please provide its coordinates."
BECAUSE = ", because {because}"
# The base instruction (Figure 2); the answer follows at once.
BASE_QUESTION = f"USER: {ASK}{TELL} ASSISTANT:"
BARE_QUESTION = f"USER: {ASK}{TELL_NOTHING} ASSISTANT:"
BASE = (Turn(BASE_QUESTION, "{point}"),)
# Table 7.
REPLACED = "There is no description to refer to."
OUTLINE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The user asks where parts of the object in the image are, and the assistant answers with "
    "their coordinates, relative to the image's width and height."
)
OBJECT = Turn(
    "USER: What do you think is the central object in this image? ASSISTANT:",
    "The object that this image is trying to express seems to be a {category}.",
)
# Figure 7.
NAME_OF_POINT = Turn(
    "USER: What is the name of a keypoint at {point} in the image? "
    "Tell me the name and why. ASSISTANT:",
    "The keypoint name is {name}" + BECAUSE,
)
# Figure 8.
JOINTS = Turn(
    "USER: What joints can you identify on the {category} in the image? "
    "Answer according to the order in the joint list. ASSISTANT:",
    "The {category} in the image seems to have several joints in the list, named {visible}. "
    "Those joints are visible in the image.",
)
JOINT_AT_POINT = Turn(
    "USER: Can you identify which joint is located at the coordinate {point}? "
    "This coordinate represents the relative position within the image, where the top-left corner "
    "is defined as [0, 0] and the bottom-right corner as [1, 1]. "
    "For example, [0.5, 0.5] indicates the center of the image. ASSISTANT:",
    "The joint located at the coordinates is {name}.",
)
# Table 11, "diverse".
ASKS = (
    ASK,
    "Where is the {name} of the object?",
    "Can you locate the {name} on the object?",
    "Where on the object is the {name}?",
    "Could you point out the {name} on the object?",
    "Please find the {name} of the object in this image.",
    "At which place in the image is the {name}?",
    "I am looking for the {name}. Where is it?",
    "Do you see the {name} of the object?",
    "Would you mark the {name} on the object?",
    "Which point of the image shows the {name}?",
    "Determine the position of the {name}.",
    "Help me find the {name} on this object.",
    "What is the location of the {name} in the image?",
    "Show me where the {name} is.",
    "Try to detect the {name} on the object.",
    "The object has a keypoint named {name}. Where does it lie?",
    "Look at the object. Where do you find the {name}?",
    "One of the object's keypoints is the {name}. Can you place it?",
    "Tell me where the {name} can be found.",
    "How far right and how far down is the {name} in the image?",
    "I need to know where the {name} is on the object.",
    "Identify the {name} of the object shown here.",
    "In this image, where does the {name} appear?",
)
DIVERSE = tuple(Turn(f"USER: {ask}{TELL} ASSISTANT:", "{point}") for ask in ASKS)

INSTRUCTIONS = {
    # Figure 2
    "base": Instruction(rounds=BASE),
    # Tables 7 and 10
    "names": Instruction(rounds=(Turn(BARE_QUESTION, "{point}"),)),
    # Table 10
    "list": Instruction(opening=(Turn("Keypoint List: {list}."),), rounds=BASE),
    # Table 11
    "outline": Instruction(opening=(Turn(OUTLINE),), rounds=BASE),
    "diverse": Instruction(rounds=DIVERSE),
    "diverse-outline": Instruction(opening=(Turn(OUTLINE),), rounds=DIVERSE),
    # Figure 6, Table 13
    "steps": Instruction(opening=(OBJECT,), rounds=BASE),
    # Table 7: at inference, and in training
    "replaced": Instruction(rounds=BASE, replaced=1.0),
    "random": Instruction(rounds=BASE, replaced=0.5),
    # Table 18: Figures 7 and 8
    "direct-qa": Instruction(rounds=(NAME_OF_POINT,), pretraining=True),
    "steps-qa": Instruction(
        opening=(Turn("Joint list: {list}."), OBJECT, JOINTS),
        rounds=(JOINT_AT_POINT,),
        pretraining=True,
    ),
}
