"""How people ask about things on a table, and how they are answered.

Slots: {use} completes "something you can ...", {part} {what_for} says "part you hold" or "parts
that roll", {is} agrees with it, or in an answer with {x}. {x} names one thing, or in an answer all
targets, each with "{seg}" behind it.
"""

from __future__ import annotations

from .wording import wording

ASK_USE = wording(
    train="""What could I {use}? | What can you {use} here? | Is there anything I could {use}?
    | Which of these things can I {use}? | I am looking for something to {use}.
    | Find me something I can {use}. | Show me everything you could {use}.
    | What is there to {use}? | Which objects in this image could somebody {use}?
    | What in this picture would you {use}? | I need something to {use}.
    | Please point out what one can {use}.""",
    val="""What would somebody {use} here? | Is there something you can {use}?
    | Show me something to {use}. | Which of these objects would you {use}?
    | I am looking for anything I could {use}.""",
    test="""What in this image can somebody {use}? | Find me everything I could {use}.
    | Which things in this picture can you {use}? | Is there anything here to {use}?
    | Please show me what I could {use}.""",
)

ANSWER_USE = wording(
    train="""That would be {x}. | You could take {x}. | I would pick {x}.
    | For that there {is} {x}. | You are looking for {x}. | Here {is} {x}.
    | It is {x} that you need. | Sure, {x}. | You will want {x}. | Take {x}.""",
    val="""For that you could take {x}. | I would take {x}. | Sure, here {is} {x}.
    | You need {x}. | That could be {x}.""",
    test="""For that I would pick {x}. | Sure, that would be {x}. | Here you could take {x}.
    | You could pick {x}. | What you need is {x}.""",
)

ASK_TWO_USES = wording(
    train="""What could I {use}, and what could I {use2}?
    | I need something to {use} and something to {use2}.
    | Which things can you {use}, and which can you {use2}?
    | Show me what to {use} and what to {use2}.
    | Find me something I can {use} and something I can {use2}.
    | What is there to {use} and to {use2}?
    | What would you {use} here, and what would you {use2}?
    | Is there anything I could {use}, and anything I could {use2}?
    | First I want something to {use}, then something to {use2}.
    | Please point out what one can {use} and what one can {use2}.""",
    val="""Is there something to {use} and something to {use2}?
    | What can somebody {use}, and what can somebody {use2}?
    | Show me something I could {use} and something I could {use2}.
    | Which of these can I {use}, and which can I {use2}?
    | What is there to {use}, and what to {use2}?""",
    test="""I want something to {use} and then something to {use2}.
    | What can I {use} here, and what can I {use2}?
    | Please show me what to {use} and what to {use2}.
    | Find me anything to {use} and anything to {use2}.
    | Which things here could you {use}, and which could you {use2}?""",
)

ANSWER_TWO_USES = wording(
    train="""First {x}, then {y}. | That would be {x}, and then {y}.
    | You could take {x} for the first and {y} for the second.
    | For the first take {x}, for the second {y}. | Sure, {x} and then {y}.
    | I would take {x}, and then {y}. | Take {x} first, then {y}. | I would pick {x}, then {y}.
    | You need {x} first and {y} second. | First you could take {x}, second {y}.""",
    val="""Take {x} and then {y}. | First I would pick {x}, then {y}.
    | For the first you need {x}, for the second {y}. | You could take {x} first, then {y}.
    | Sure, first {x}, then {y}.""",
    test="""I would pick {x} first, and then {y}. | First you need {x}, then {y}.
    | For the first I would pick {x}, for the second {y}. | You could pick {x}, then {y}.
    | Sure, {x} for the first and {y} for the second.""",
)

ASK_PART = wording(
    train="""On {x}, which {is} the {part} {what_for}?
    | Where on {x} {is} the {part} {what_for}? | Show me the {part} {what_for} on {x}.
    | Can you say which {is} the {part} {what_for} on {x}?
    | Look at {x}: where {is} the {part} {what_for}? | Find the {part} {what_for} on {x}.
    | Please point out the {part} {what_for} on {x}. | What on {x} {is} the {part} {what_for}?
    | I am looking for the {part} {what_for} on {x}. | Can you see the {part} {what_for} on {x}?""",
    val="""Where {is} the {part} {what_for} on {x}? | On {x}, find the {part} {what_for}.
    | Look at {x} and find the {part} {what_for}. | Which {is} the {part} {what_for} on {x}?
    | On {x}, where {is} the {part} {what_for}?""",
    test="""Please find the {part} {what_for} on {x}. | On {x}, show me the {part} {what_for}.
    | Can you point out the {part} {what_for} on {x}?
    | Look at {x}: which {is} the {part} {what_for}? | What {is} the {part} {what_for} on {x}?""",
)

ASK_PART_BY_USE = wording(
    train="""Which {is} the {part} {what_for} on what I could {use}?
    | On the thing you can {use}, where {is} the {part} {what_for}?
    | Show me the {part} {what_for} on whatever you can {use}.
    | Of what you could {use}, find the {part} {what_for}.
    | Find what I can {use} and show me the {part} {what_for}.
    | Please point out the {part} {what_for} on anything one could {use}.
    | I am looking for the {part} {what_for} on something to {use}.
    | Where {is} the {part} {what_for} on the thing to {use}?
    | If I took something to {use}, which {is} the {part} {what_for}?
    | Of the things to {use}, show me the {part} {what_for}.""",
    val="""On what you can {use}, which {is} the {part} {what_for}?
    | Find the {part} {what_for} on anything I could {use}.
    | Show me the {part} {what_for} on the thing one can {use}.
    | Where {is} the {part} {what_for} on what I can {use}?
    | If you took something to {use}, where {is} the {part} {what_for}?""",
    test="""Please show me the {part} {what_for} on what I could {use}.
    | On whatever you can {use}, find the {part} {what_for}.
    | Of anything I can {use}, which {is} the {part} {what_for}?
    | On something to {use}, where {is} the {part} {what_for}?
    | Point out the {part} {what_for} on the thing you could {use}.""",
)

ANSWER_PART = wording(
    train="""That would be {x}. | It would be {x}. | The answer is {x}.
    | What you mean {is} {x}. | Here {is} {x}. | You are looking for {x}. | Sure, {x}.
    | I see {x}. | You mean {x}. | There {is} {x}.""",
    val="""I would say {x}. | Sure, here {is} {x}. | Here you see {x}. | Sure, I see {x}.
    | Sure, you mean {x}.""",
    test="""What you are looking for {is} {x}. | Sure, there {is} {x}. | I see it: {x}.
    | Sure, that would be {x}. | Sure, the answer is {x}.""",
)

ASK_BOTH = wording(
    train="""What could I {use}, and which {is} the {part} {what_for}?
    | Show me what I can {use} and the {part} {what_for}.
    | Find something to {use} and, on it, the {part} {what_for}.
    | What is there to {use}, and where {is} the {part} {what_for}?
    | I need something to {use}; show me also the {part} {what_for}.
    | Which of these can I {use}, and which {is} its {part} {what_for}?
    | Please point out what one could {use} and the {part} {what_for}.
    | What would you {use}, and where on it {is} the {part} {what_for}?
    | Is there anything to {use}, and where {is} the {part} {what_for}?
    | I am looking for something to {use} and for the {part} {what_for}.""",
    val="""What can you {use}, and where on it {is} the {part} {what_for}?
    | Find what I could {use} and the {part} {what_for}.
    | I need something to {use} and, on it, the {part} {what_for}.
    | Show me something to {use} and where the {part} {what_for} {is}.
    | Which of these would you {use}, and where {is} the {part} {what_for}?""",
    test="""Please show me what I can {use} and, on it, the {part} {what_for}.
    | What can I {use} here, and which {is} its {part} {what_for}?
    | I am looking for what I could {use} and its {part} {what_for}.
    | Is there something to {use}, and which {is} the {part} {what_for}?
    | Point out what you could {use} and also the {part} {what_for}.""",
)

ASK_COUNT = wording(
    train="""How many {plural} are there? | How many {plural} do you see?
    | How many {plural} are in the image? | What is the number of {plural}?
    | Count the {plural}. | How many {plural} can you count?
    | How many {plural} are in the picture? | Can you count the {plural}?
    | Tell me how many {plural} there are. | What number of {plural} do you see?""",
    val="""Tell me the number of {plural}. | How many {plural} can you see?
    | Count the {plural} in the image. | What number of {plural} are there?
    | How many {plural} do you count?""",
    test="""Tell me how many {plural} you see. | Can you tell how many {plural} there are?
    | What is the number of {plural} in the image? | Count the {plural} in the picture.
    | How many {plural} can you see in the picture?""",
)

ASK_COLOR = wording(
    train="""What color {is} {x}? | Which color {is} {x}? | What is the color of {x}?
    | Tell me the color of {x}. | What color {has} {x}? | Which color {has} {x}?
    | {x}: what color? | Name the color of {x}. | Can you tell the color of {x}?
    | In what color {is} {x}? | Which is the color of {x}?""",
    val="""Name the color that {x} {has}. | Can you name the color of {x}?
    | In which color {is} {x}? | {x}: which color? | Tell me what color {x} {is}.""",
    test="""Tell me which color {x} {is}. | Can you tell what color {x} {is}?
    | What color do you see on {x}? | Which color do you see on {x}?
    | Name the color you see on {x}.""",
)

ASK_IF_ANY = wording(
    train="""Is there {a} {full}? | Do you see {a} {full}? | Are there any {plural}?
    | Can you see {a} {full} here? | Is there {a} {full} in the image?
    | Do you see any {plural}? | Is {a} {full} in the picture? | Can you see any {plural}?
    | Are there {plural} in the image? | Is there any {one} here?""",
    val="""Do you see {a} {full} here? | Are there any {plural} in the image?
    | Is there any {one} in the picture? | Can you see {a} {full}?
    | Do you see any {plural} here?""",
    test="""Can you see any {plural} here? | Is there {a} {full} in the picture?
    | Are there {plural} in the picture? | Do you see {a} {full} in the image?
    | Is there any {one} in the image?""",
)

ASK_IF_RELATED = wording(
    train="""{is} {x} {rel} {other}? | Do you see {x} {rel} {other}?
    | Would you say {x} {is} {rel} {other}? | Can you see {x} {rel} {other}?
    | Is it true that {x} {is} {rel} {other}? | {x} {is} {rel} {other}, true or not?
    | {is} {x} here {rel} {other}? | Tell me if {x} {is} {rel} {other}.
    | {is} {x} in the image {rel} {other}? | Is it so that {x} {is} {rel} {other}?""",
    val="""Can you tell if {x} {is} {rel} {other}? | Would you say that {x} {is} {rel} {other}?
    | Do you see that {x} {is} {rel} {other}? | Tell me, {is} {x} {rel} {other}?
    | Is it true or not that {x} {is} {rel} {other}?""",
    test="""Tell me if it is true that {x} {is} {rel} {other}.
    | Can you see if {x} {is} {rel} {other}? | Would you say so: {x} {is} {rel} {other}?
    | Can you tell me, {is} {x} {rel} {other}? | Do you see if {x} {is} {rel} {other}?""",
)
