"""How people point at things on a table: the patterns of every phrase that is not a question.

Slots of a noun: {full} "small red mug", {a} "a", {noun} "mug", {post} "small and red", {is} "is",
{looks} "looks", {has} "has"; {color} and {marks} stand alone when the phrase says nothing else,
{rest} is what is said besides {marks}. Slots of whole phrases: {the} "the small red mug", {x} and
{other} a phrase that names one thing, {owner} the same when it ends in its noun, {owners} "the red
mug's". Slots of groups: {plural} "small red mugs", {one} what follows "every", {trait} what follows
"everything".
"""

from __future__ import annotations

from .wording import wording

GENERIC_NOUNS = ("object", "thing", "item")
SIZE_WORDS = {
    "small": ("small", "little"),
    "medium": ("medium", "medium sized"),
    "large": ("large", "big"),
}
MARKS = {"striped": "stripes", "dotted": "dots"}
ORDINALS = ("first", "second", "third", "fourth", "fifth")

RELATION_WORDS = {
    "left": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right of", "on the right side of"),
    "above": ("above", "higher up than", "further up than"),
    "below": ("below", "lower down than", "further down than"),
    "near": ("next to", "beside", "close to", "right next to"),
    "on": ("on", "on top of", "standing on", "on the top of"),
    "under": ("under", "underneath", "right under"),
    "front": ("in front of", "partly hiding", "right in front of"),
    "behind": ("behind", "partly hidden by", "right behind"),
    "top-left": ("to the top left of", "above and to the left of", "up and left of"),
    "top-right": ("to the top right of", "above and to the right of", "up and right of"),
    "bottom-left": ("to the bottom left of", "below and to the left of", "down and left of"),
    "bottom-right": ("to the bottom right of", "below and to the right of", "down and right of"),
    "overlapping": ("overlapping", "overlapping with", "partly overlapping"),
}
"""Relation name -> what it is called, in every split; "same" has sentences instead, `ITSELF`."""

CARRIERS = wording(
    train="""find {x} | segment {x} | show me {x} | please segment {x} | can you find {x}
    | mark {x} | i am looking for {x} | give me a mask of {x} | point at {x}
    | where can i see {x} | look for {x} | i want {x} | please show {x} in the image
    | cut out {x}""",
    val="""please find {x} | can you show me {x} | i want a mask of {x} | where can i find {x}
    | please mark {x} in the image""",
    test="""please point at {x} | can you segment {x} | i want to see {x} | show {x} please
    | please look for {x} | can you mark {x} in this image""",
)
"""What a person may wrap around a noun phrase {x}; most say it bare, in every split."""

CATEGORY = wording(
    train="""the {full} | the {full} | {full} | {a} {full} | the only {full}
    | the {full} in this image | the {full} in the picture | the {full} here | the one {full}
    | the {full} that you can see | the {full} on this table | the {full} in view
    | just {a} {full} | the {full} we see""",
    val="""the {full} in the image | the only {full} here | the {full} you see | just the {full}
    | the one {full} in the picture""",
    test="""the {full} in this picture | the only {full} in view | the one {full} we can see
    | the {full} you can see here | the only {full} in the image""",
)

ATTRIBUTE = wording(
    train="""the {full} | the {full} | the {full} | {full} | {a} {full}
    | the {noun} that {is} {post} | the {noun} which {is} {post} | the {color} colored {noun}
    | the {noun} in {color} | the {noun} with {marks} | the {rest} {noun} with {marks}
    | the {noun} that {looks} {post} | the {noun} of {color} color | the {full} in this image
    | the {noun} colored {color} | the {noun} that {has} {marks} | the only {full}
    | the {full} you can see here""",
    val="""the {full} in the picture | the {noun} which {looks} {post} | the only {full} in view
    | the {noun} with the {color} color | the {rest} {noun} that {has} {marks} | the {full} here
    | the {noun} that {is} {color} colored""",
    test="""the {full} in the image | the one {full} | the {noun} that {is} {color} in color
    | the {noun} which {has} {marks} | the {noun} which {is} colored {color}
    | the {rest} {noun} which {has} {marks} | the {full} that you see
    | the {noun} here that {is} {post}""",
)

RELATION = wording(
    train="""{the} {rel} {other} | {the} {rel} {other} | {the} {rel} {other}
    | {full} {rel} {other} | {the} that {is} {rel} {other} | {the} which {is} {rel} {other}
    | {the} you see {rel} {other} | {the} located {rel} {other} | {the} placed {rel} {other}
    | {the} you can find {rel} {other} | the one {full} {rel} {other} | {the} here {rel} {other}
    | {the} {rel} {other} in this image""",
    val="""{the} that you see {rel} {other} | {the} which you can find {rel} {other}
    | {the} that {is} placed {rel} {other} | the only {full} {rel} {other}
    | {the} {rel} {other} in the picture""",
    test="""{the} you can see {rel} {other} | {the} that {is} located {rel} {other}
    | {the} which {is} placed {rel} {other} | {the} {rel} {other} here
    | {the} {rel} {other} in the image""",
)

NEAREST = wording(
    train="""the {noun} nearest to {other} | the {noun} closest to {other}
    | the nearest {noun} to {other} | the {noun} nearest {other} | the closest {noun} to {other}
    | the {noun} that {is} closest to {other} | the {noun} that {is} nearest to {other}
    | {noun} closest to {other} | the {noun} with the least distance to {other}
    | the {noun} at the least distance from {other}""",
    val="""the {noun} which {is} closest to {other} | the {noun} you see closest to {other}
    | the one {noun} nearest to {other} | the {noun} here that {is} nearest {other}
    | {noun} nearest to {other}""",
    test="""the {noun} which {is} nearest to {other} | the {noun} that {is} nearest {other}
    | the {noun} you see nearest to {other} | the one {noun} closest to {other}
    | the {noun} in the image closest to {other}""",
)

SIDEWAYS = wording(
    train="""the {side}most {full} | the {side}most {full} | {full} on the far {side}
    | the {full} on the far {side} | the {full} farthest to the {side}
    | the {full} nearest to the {side} edge | the {full} that {is} farthest to the {side}
    | the {full} closest to the {side} side | {side}most {full}
    | the first {full} from the {side} | the {full} at the far {side} of the image""",
    val="""the {side}most {full} in the image | the {full} nearest to the {side} side
    | the {full} which {is} farthest to the {side} | the one {full} on the far {side}
    | the {full} at the far {side}""",
    test="""the {full} closest to the {side} edge | the {full} that {is} on the far {side}
    | the {side}most {full} here | the {full} farthest to the {side} in this image
    | the {full} closest to the {side} edge of the image""",
)
"""Extremes along the image's width: {side} is "left" or "right"."""

UPDOWN = wording(
    train="""the {side}most {full} | the {side}most {full}
    | the {full} nearest to the {side} edge | the {full} closest to the {side}
    | {side}most {full} | the {full} closest to the {side} side | the {high}est {full}
    | the {full} that {is} closest to the {side} | the first {full} from the {side}
    | the {high}est {full} in the image | the {full} farthest to the {side}""",
    val="""the {side}most {full} in the image | the {full} which {is} closest to the {side}
    | the {high}est {full} here | the {full} nearest to the {side}
    | the {full} nearest to the {side} side""",
    test="""the {full} closest to the {side} edge | the {side}most {full} here
    | the {full} that {is} nearest to the {side} edge | the {high}est {full} in the picture
    | the {full} closest to the {side} of the image""",
)
"""Extremes along the image's height: {side} is "top" or "bottom", {high} "high" or "low"."""

BIGGEST = wording(
    train="""the {most} {full} | the {most} {full} | {most} {full} | the {most} of the {plural}
    | the {most} of all the {plural} | the {most} {full} in the image | the {most} {full} here
    | the {full} that {is} the {most} | the {most} {full} you can see
    | the {full} with the {most} size | the one {full} that {is} {most}""",
    val="""the {most} one of the {plural} | the {most} {full} in the picture
    | the {most} {full} in view | the {full} which {is} the {most}
    | the {most} {full} that you can see""",
    test="""the {most} {full} in this image | the {most} one of all the {plural}
    | the {most} {full} we see | the {most} {full} you see here
    | the {most} of the {plural} here""",
)
SUPERLATIVES = {True: ("biggest", "largest"), False: ("smallest",)}
"""Whether the largest is meant -> what it is called."""

COUNTED = wording(
    train="""the {nth} {full} from the {side} | {nth} {full} from the {side}
    | the {nth} {full} from {side} | the {full} that {is} {nth} from the {side}
    | the {full} which {is} {nth} from the {side} | counting from the {side}, the {nth} {full}
    | from the {side}, the {nth} {full} | the {nth} {full} counted from the {side}
    | the {nth} of the {plural} from the {side}
    | the {nth} {full} when you count from the {side}""",
    val="""the {nth} {full} in the image from the {side} | from the {side} the {nth} {full}
    | the {full} you see {nth} from the {side}
    | the {nth} of the {plural} counted from the {side}
    | the {full} that {is} the {nth} from the {side}""",
    test="""the {full} that you see {nth} from the {side}
    | the {nth} {full} here from the {side} | counted from the {side}, the {nth} {full}
    | the {nth} of the {plural}, counting from the {side}
    | when you count from the {side}, the {nth} {full}""",
)

PART = wording(
    train="""the {part} of {x} | the {part} of {x} | the {part} of {x} | {part} of {x}
    | {owners} {part} | the {part} on {x} | just the {part} of {x}
    | the {part} that {belong} to {x} | only the {part} of {x}
    | the {part} which {belong} to {x} | {x}, only the {part} | the {part} you see on {x}
    | the part of {owner} called {part}""",
    val="""only the {part} on {x} | the {part} you see of {x} | {x}, just the {part}
    | {x}: the {part} | of {x} the {part}""",
    test="""the {part} that you see on {x} | just the {part} on {x}
    | the {part} you can see on {x} | of {x}, only the {part} | of {x} just the {part}""",
)

SEMANTIC_PREFIX = "[semantic] "
"""EVF-SAM's task tag for all pixels of a class (its README and `utils/dataset`)."""

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

GROUP = wording(
    train="""all {plural} | all {plural} | all the {plural} | every {one} | each {one}
    | {plural} | the {plural} | all of the {plural} | all {plural} in the image
    | every single {one} | everything {trait} | all {plural} you can see
    | everything that is {trait} | all things {trait}""",
    val="""every {one} in the image | all of the {plural} here | everything {trait} in the image
    | each of the {plural} | all the {plural} you can see""",
    test="""every {one} you can see | all {plural} here | everything {trait} you can see
    | every one of the {plural} | all the {plural} in this image | each {one} in the image""",
)

COUNT = wording(
    train="""the {number} {plural} | {number} {plural} | both {pair} | all {number} {plural}
    | the {number} {plural} in the image | the group of {number} {plural} | both of the {pair}
    | all {number} of the {plural} | the {number} {plural} here
    | the {number} {plural} you can see | both the {pair}""",
    val="""both {pair} in the image | the {number} {plural} that you can see
    | all the {number} {plural} | {number} {plural} here | all {number} {plural} in the image""",
    test="""the {number} {plural} in this picture | both {pair} here
    | all of the {number} {plural} | {number} {plural} in the image
    | both of the {pair} in the image""",
)
"""Groups of a known {number}; {pair} is the plural of exactly two."""

UNION = wording(
    train="""{x} and {y} | {x} and {y} | {x} and {y} | both {one_x} and {y} | {x} as well as {y}
    | {x} together with {y} | {x} plus {y} | {x} along with {y} | {x} and also {y}
    | not only {x} but also {y} | {x}, {y} | {x} and then {y}""",
    val="""as well as {x}, {y} | {x} but also {y} | {x}, and {y} | {x} and, as well, {y}
    | {x}, together with {y}""",
    test="""{x}, plus {y} | {x}, and also {y} | {x}, along with {y} | {x}, as well as {y}
    | together, {x} and {y}""",
)
"""Two groups in one phrase; {one_x} is {x} when it is a single thing."""

EXCEPT = wording(
    train="""all {plural} except {x} | all the {plural} except {x} | every {one} except {x}
    | all {plural} but {x} | all {plural} other than {x} | every {one} but {x}
    | {plural} except {x} | all of the {plural} but not {x} | every {one} other than {x}
    | all {plural} without {x} | the {plural}, but not {x}""",
    val="""all of the {plural} except {x} | every {one} but not {x} | all {plural}, but not {x}
    | the {plural} other than {x} | all the {plural} but {x}""",
    test="""all of the {plural} other than {x} | all the {plural}, but not {x}
    | the {plural} except {x} | every single {one} except {x} | all the {plural} without {x}""",
)

GROUP_RELATION = wording(
    train="""all {plural} {rel} {other} | every {one} {rel} {other}
    | everything {rel_of_all} {other} | all the {plural} {rel} {other}
    | all {plural} that are {rel} {other} | {plural} {rel} {other} | each {one} {rel} {other}
    | everything that is {rel_of_all} {other} | any {one} {rel} {other}
    | all {plural} you see {rel} {other} | whatever is {rel_of_all} {other}""",
    val="""every {one} you see {rel} {other} | all of the {plural} {rel} {other}
    | each {one} that is {rel} {other} | everything you see {rel_of_all} {other}
    | all the {plural} that are {rel} {other}""",
    test="""every {one} that is {rel} {other} | all {plural} here {rel} {other}
    | everything you can see {rel_of_all} {other} | any {one} that is {rel} {other}
    | all of the {plural} that are {rel} {other}""",
)
"""Groups by a relation; {rel_of_all} is the relation when the group is of any kind."""

REFERENCE = "<mask-ref>"
"""What stands for a mask in a phrase (RAS, arXiv 2506.05342, section 3)."""

SAME = wording(
    train="""everything else of the same {trait} as {ref}
    | all other objects with the same {trait} as {ref}
    | the other things that have the same {trait} as {ref}
    | every other object whose {trait} is that of {ref}
    | all the other things of the same {trait} as {ref}
    | other objects with the {trait} of {ref} | whatever else has the same {trait} as {ref}
    | everything else with the {trait} of {ref}
    | all other items that share the {trait} of {ref}
    | select the other objects of the same {trait} as {ref}
    | whatever shares the {trait} of {ref} besides it
    | segment everything else of the same {trait} as {ref}""",
    val="""all other things of the same {trait} as {ref}
    | everything else that has the {trait} of {ref} | whatever else shares the {trait} of {ref}
    | the other items with the same {trait} as {ref}
    | segment all other objects with the {trait} of {ref}""",
    test="""every other thing of the same {trait} as {ref}
    | all the other items with the {trait} of {ref}
    | everything else that shares the {trait} of {ref}
    | other things with the same {trait} as {ref}
    | select everything else with the same {trait} as {ref}""",
)

OTHER = wording(
    train="""the other {plural} than {ref} | the {plural} other than {ref}
    | all {plural} except {ref} | every {one} but {ref} | all other {plural} than {ref}
    | each {one} that is not {ref} | all the {plural} besides {ref}
    | find all {plural} except {ref} | select every {one} but not {ref}
    | all {plural} apart from {ref} | all {plural}, but not {ref}""",
    val="""every {one} except {ref} | all the other {plural} than {ref}
    | the {plural} that are not {ref} | select all {plural} besides {ref}
    | find every {one} but {ref}""",
    test="""all the {plural} except {ref} | every {one} besides {ref}
    | all {plural} that are not {ref} | select the {plural} other than {ref}
    | each {one} apart from {ref}""",
)
"""What is left of a category without the reference."""

OTHER_ONE = wording(
    train="""the other {one} than {ref} | the {one} other than {ref}
    | the {one} that is not {ref} | find the {one} besides {ref} | the other {one}, not {ref}
    | the other {one} apart from {ref} | not {ref} but the other {one}
    | the second {one} besides {ref} | select the {one} that is not {ref}
    | the one {one} except {ref} | the other {one}, besides {ref}""",
    val="""the {one} except {ref} | select the other {one} than {ref} | the {one} besides {ref}
    | find the {one} that is not {ref} | the other {one}, apart from {ref}""",
    test="""the {one} apart from {ref} | find the other {one} than {ref}
    | the other {one} besides {ref} | select the {one} besides {ref} | the {one}, but not {ref}""",
)
"""The only other thing of the reference's category."""

SAME_ONE = wording(
    train="""the other object of the same {trait} as {ref}
    | the other thing with the {trait} of {ref} | the object that has the same {trait} as {ref}
    | what else has the {trait} of {ref} | the one other item of the same {trait} as {ref}
    | find the other thing of the same {trait} as {ref}
    | the object that shares the {trait} of {ref} | the item with the same {trait} as {ref}
    | the other object whose {trait} is that of {ref} | the thing that is like {ref} in {trait}""",
    val="""the other item of the same {trait} as {ref}
    | what else is of the same {trait} as {ref}
    | the other thing that shares the {trait} of {ref}
    | the thing with the same {trait} as {ref} | find the other object with the {trait} of {ref}""",
    test="""what else has the same {trait} as {ref}
    | the other thing that has the {trait} of {ref}
    | the one other object with the {trait} of {ref} | the item that shares the {trait} of {ref}
    | find the item of the same {trait} as {ref}""",
)
"""The only other thing that shares a trait with the reference."""

ITSELF = wording(
    train="""the same {full} as {ref} | the very same {full} as {ref} | {ref} again
    | {ref} once more | find {ref} again | segment {ref} once more | just {ref} again
    | the {full} that {is} {ref} | the same {full} again, {ref} | select the same {full} as {ref}
    | nothing but {ref} | the {full} we had before, {ref}""",
    val="""the very same {full} again, {ref} | once more {ref} | select {ref} again
    | just the same {full} as {ref} | find the {full} that {is} {ref}""",
    test="""the same {full} once more, {ref} | segment {ref} again | find {ref} once more
    | select the very same {full} as {ref} | just the {full} that {is} {ref}""",
)
"""The very thing that the reference shows."""

WHOLE = wording(
    train="""the object that {ref} belongs to | the whole {full} of {ref}
    | the {full} that {ref} is part of | the whole object that {ref} is part of
    | what {ref} belongs to | the {full} which {ref} belongs to | the whole thing with {ref}
    | all of the object {ref} belongs to | the whole {full}, not only {ref}
    | the {full} that has {ref}""",
    val="""the whole object {ref} belongs to | the {full} {ref} is part of
    | the thing that {ref} belongs to | the whole {full} that {ref} is part of
    | the object that has {ref}""",
    test="""the {full} {ref} belongs to | the whole thing {ref} is part of
    | what {ref} is part of | the whole {full} with {ref} | the object, not only {ref}""",
)
"""The object that a part belongs to."""

SAME_AS_EITHER = wording(
    train="""everything else of the same {trait} as {ref} or {ref}
    | all other objects with the {trait} of {ref} or of {ref}
    | other things like {ref} or {ref} in {trait}
    | whatever else has the {trait} of {ref} or {ref}
    | all other items that share the {trait} of {ref} or {ref}
    | every other object of the same {trait} as {ref} or {ref}
    | select all others with the {trait} of {ref} or {ref}
    | everything else that is of one {trait} with {ref} or {ref}
    | the others that have the {trait} of {ref} or {ref}
    | find everything else with the {trait} of {ref} or {ref}""",
    val="""everything else with the {trait} of {ref} or {ref}
    | all others of the same {trait} as {ref} or {ref}
    | every other item with the {trait} of {ref} or {ref}
    | whatever else is of the same {trait} as {ref} or {ref}
    | the other things that share the {trait} of {ref} or {ref}""",
    test="""all other things that have the {trait} of {ref} or {ref}
    | everything else like {ref} or {ref} in {trait}
    | select whatever else has the {trait} of {ref} or {ref}
    | the other items of the same {trait} as {ref} or {ref}
    | find all others that share the {trait} of {ref} or {ref}""",
)

SIZE_COMPARED = wording(
    train="""every {one} {more} than {ref} | all {plural} that are {more} than {ref}
    | all {plural} {more} than {ref} | the {more} {plural} compared with {ref}
    | each {one} that is {more} than {ref} | every {one} of a {more} size than {ref}
    | any {one} {more} than {ref} | select the {plural} that are {more} than {ref}
    | {plural} {more} than {ref} | find every {one} {more} than {ref}
    | every {one} that looks {more} than {ref}""",
    val="""the {plural} that look {more} than {ref} | select every {one} {more} than {ref}
    | all {plural} of a {more} size than {ref} | find all {plural} {more} than {ref}
    | each {one} {more} than {ref}""",
    test="""the {plural} {more} than {ref} | select all {plural} that are {more} than {ref}
    | any {one} that is {more} than {ref} | find the {plural} that look {more} than {ref}
    | all {plural} here {more} than {ref}""",
)
"""Groups by size against one of their like; {more} is "bigger" or "smaller"."""
