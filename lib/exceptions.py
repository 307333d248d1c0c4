"""Out: the errors that a user can fix. The command line prints them as sentences; all others keep
their traceback."""


class CxrError(Exception):
    """The base of this project's own errors: the text says what is wrong, where, and what to do."""


class DatasetError(CxrError):
    """A dataset folder cannot be used as it is; the text lists everything that is wrong with it."""


class SplitError(CxrError):
    """A split cannot be made, or leaks; the text names the patients."""


class ImageError(CxrError):
    """A file is not a readable chest radiograph; the text is the reason."""


class ModelError(CxrError):
    """A network or its weights cannot be built, loaded or trained."""


class RunError(CxrError):
    """The folder of a run or a study cannot be used: it is missing, incomplete, damaged, or in
    use."""


class StudyError(CxrError):
    """Everything that is wrong with a study, one sentence per line; nothing was started."""


class NotebookError(CxrError):
    """Why a notebook did not run to its end."""


class ComparisonError(CxrError):
    """Why runs cannot be compared."""


class ExportError(CxrError):
    """Why a run or a checkpoint cannot be exported, or an exported file cannot be used."""


class ClusterError(CxrError):
    """A Dask cluster cannot be used, or was lost while a study ran."""
