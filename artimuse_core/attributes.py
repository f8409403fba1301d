"""The eight aesthetic attributes of ArtiMuse-10K (paper App. A.1, Table 5)."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Attribute:
    name: str
    """As the prompts spell it."""
    description: str
    """Table 5, verbatim."""

    @property
    def key(self) -> str:
        """Identifier for files and options: ``composition_design``."""
        return self.name.lower().replace(" & ", "_").replace(" ", "_")


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "Composition & Design",
        "Evaluate the balance, contrast, layout aesthetics, and rhythm of the composition. "
        "Focus on the use of dynamic focal points, unity, and harmony in the design.",
    ),
    Attribute(
        "Visual Elements & Structure",
        "Analyze the interplay of color, geometry, spatial organization, and illumination "
        "to optimize visual contrast and structural clarity.",
    ),
    Attribute(
        "Technical Execution",
        "Examine the mastery of medium and materials, including brushstrokes, focus, exposure, "
        "light handling, as well as clarity and resolution of the image.",
    ),
    Attribute(
        "Originality & Creativity",
        "Analyze the uniqueness of the concept and execution, focusing on how the work exceeds "
        "common styles with imagination, and creative breakthroughs.",
    ),
    Attribute(
        "Theme & Communication",
        "Evaluate the clarity of the subject and its communication. Consider how effectively the "
        "narrative, cultural significance, and societal context are conveyed.",
    ),
    Attribute(
        "Emotion & Viewer Response",
        "Assess how well the work evokes an emotional response, engages the viewer, and creates "
        "lasting impressions with personal significance.",
    ),
    Attribute(
        "Overall Gestalt",
        "Evaluate the overall visual appeal and artistic impact of the image, considering how "
        "well the elements combine to create an engaging, meaningful impression.",
    ),
    Attribute(
        "Comprehensive Evaluation",
        "Provide a comprehensive aesthetics assessment of the image, evaluating its effectiveness "
        "in visual impact, theme communication, and artistic depth.",
    ),
)


def attribute(name: str) -> Attribute:
    """Find an attribute by its name or key, whatever the case."""
    wanted = name.strip().lower()
    for candidate in ATTRIBUTES:
        if wanted in (candidate.name.lower(), candidate.key):
            return candidate
    raise UsageError(f"unknown attribute {name!r}; known: {', '.join(a.key for a in ATTRIBUTES)}")
