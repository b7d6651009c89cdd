"""What felid raises and warns with.

Every error a caller can cause derives from `FelidError`; its message is one sentence that says what was got, what was
expected and what to do. The command line prints it on one line and exits with code 2.

    FelidError
    ├── RecipeError       a recipe, an override or a file of settings cannot be used
    ├── DataError         source files or tables are missing, malformed or contradict each other
    ├── EmbeddingError    item vectors are missing, misaligned or not finite
    ├── SemanticIdError   codes, code sizes or tries do not fit together
    ├── ArtifactError     a stage's folder is missing, half-written, foreign or in use
    └── RequestError      a question to a recommender that it cannot answer (k too large, unknown item, ...)

    FelidWarning          an option has no effect, or data is doubtful; work goes on
"""

from __future__ import annotations


class FelidError(Exception):
    """Base of all errors that a caller of felid can cause and mend."""


class RecipeError(FelidError):
    """A recipe, an override or a settings file cannot be used."""


class DataError(FelidError):
    """Source files or tables are missing, malformed or contradict each other."""


class EmbeddingError(FelidError):
    """Item vectors are missing, misaligned or not finite."""


class SemanticIdError(FelidError):
    """Codes, code sizes or tries do not fit together."""


class ArtifactError(FelidError):
    """A stage's folder is missing, half-written, foreign or in use."""


class RequestError(FelidError):
    """A question that a recommender cannot answer."""


class FelidWarning(UserWarning):
    """An option has no effect, or data is doubtful; the work goes on."""
