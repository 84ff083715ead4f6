"""The texts of a conversation (Section 3.2; Tables 7, 10, 11, 13, 18; Figures 2, 6, 7, 8). Imports nothing of this project."""

from typing import NamedTuple

ASK = "Can you identify location of {name} on the object?"
TELL = " {description} With this description, please provide its coordinates."
QUESTION = f"USER: {ASK}{TELL} ASSISTANT:"              # the base instruction (Figure 2); its answer follows at once
BARE = f"USER: {ASK} Please provide its coordinates. ASSISTANT:"                    # without description
REPLACED = "There is no description to refer to."       # Table 7
OUTLINE = ("A chat between a curious user and an artificial intelligence assistant. The user asks where parts of the object in the "
           "image are, and the assistant answers with their coordinates, relative to the image's width and height.")
OBJECT = ("USER: What do you think is the central object in this image? ASSISTANT:",
          "The object that this image is trying to express seems to be a {category}.")
ASKS = (ASK, "Where is the {name} of the object?", "Can you locate the {name} on the object?", "Where on the object is the {name}?",
        "Could you point out the {name} on the object?", "Please find the {name} of the object in this image.",
        "At which place in the image is the {name}?", "I am looking for the {name}. Where is it?", "Do you see the {name} of the object?",
        "Would you mark the {name} on the object?", "Which point of the image shows the {name}?", "Determine the position of the {name}.",
        "Help me find the {name} on this object.", "What is the location of the {name} in the image?", "Show me where the {name} is.",
        "Try to detect the {name} on the object.", "The object has a keypoint named {name}. Where does it lie?",
        "Look at the object. Where do you find the {name}?", "One of the object's keypoints is the {name}. Can you place it?",
        "Tell me where the {name} can be found.", "How far right and how far down is the {name} in the image?",
        "I need to know where the {name} is on the object.", "Identify the {name} of the object shown here.",
        "In this image, where does the {name} appear?")


class Instruction(NamedTuple):
    """How a conversation reads: turns of a USER's text and the ASSISTANT's answer, "" where there is none to give.

    opening: turns before the rounds; rounds: one of these for each keypoint, drawn at random in training, the first at
    inference; replaced: the share of descriptions that training exchanges for REPLACED (all of them: at inference, too).
    Filled in are {category}, {list}, the names of its keypoints, and {asked}, of those in this conversation; in a round {name},
    {description}, {because}, the same within a sentence, and {point}, the coordinates. pretraining: trains W_proj alone.
    """
    opening: tuple = ()
    rounds: tuple = ((QUESTION, "{point}"),)
    replaced: float = 0.0
    pretraining: bool = False


INSTRUCTIONS = {
    "base": Instruction(),                                                                          # Figure 2
    "names": Instruction(rounds=((BARE, "{point}"),)),                                              # Tables 7 and 10
    "list": Instruction(opening=(("Keypoint List: {list}.", ""),)),                                 # Table 10
    "outline": Instruction(opening=((OUTLINE, ""),)),                                               # Table 11
    "diverse": Instruction(rounds=tuple((f"USER: {ask}{TELL} ASSISTANT:", "{point}") for ask in ASKS)),     # Table 11
    "steps": Instruction(opening=(OBJECT,)),                                                        # Figure 6
    "replaced": Instruction(replaced=1.0),                                                          # Table 7
    "random": Instruction(replaced=0.5),                                                            # Table 7, in training
    "direct-qa": Instruction(pretraining=True, rounds=((                                            # Figure 7
        "USER: What is the name of a keypoint at {point} in the image? Tell me the name and why. ASSISTANT:",
        "The keypoint name is {name}, because {because}"),)),
    "steps-qa": Instruction(pretraining=True, opening=(("Joint list: {list}.", ""), OBJECT, (       # Figure 8
        "USER: What joints can you identify on the {category} in the image? Answer according to the order in the joint list. ASSISTANT:",
        "The {category} in the image seems to have several joints in the list, named {asked}. Those joints are visible in the image.")),
        rounds=(("USER: Can you identify which joint is located at the coordinate {point}? This coordinate represents the relative "
                 "position within the image, where the top-left corner is defined as [0, 0] and the bottom-right corner as [1, 1]. For "
                 "example, [0.5, 0.5] indicates the center of the image. ASSISTANT:", "The joint located at the coordinates is {name}."),)),
}
