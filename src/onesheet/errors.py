"""One small tree of errors: what went wrong, in words that may be shown to anybody.

Every error carries a stable `code` (for programs), an HTTP `status`, and a message that is safe to show: it names
what the user gave, never a path of the server or a stack frame.
"""

from __future__ import annotations

from typing import ClassVar


class OnesheetError(Exception):
    """Base of every error that onesheet raises on purpose.

    Attributes:
        code: Stable, lower-case identifier; part of the JSON and HTTP contracts.
        status: HTTP status that fits the error.
        title: Short human-readable summary of the kind of error.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.title)

    @property
    def message(self) -> str:
        """What happened, in one sentence."""
        return str(self)

    def to_dict(self) -> dict[str, str]:
        """The `error` object of the JSON contract."""
        return {"code": self.code, "message": self.message}


class InvalidRequestError(OnesheetError):
    """An argument or option is out of its range."""

    code = "invalid_request"
    status = 422
    title = "Invalid request"


# ---------------------------------------------------------------------------------------------- pictures


class ImageError(OnesheetError):
    """A picture cannot be answered; the others can."""

    code = "bad_image"
    status = 400
    title = "Bad image"


class ImageNotFoundError(ImageError):
    """No file has this name."""

    code = "not_found"
    title = "File not found"


class NotAFileError(ImageError):
    """A folder, a pipe or a device was named where a picture file is needed."""

    code = "not_a_file"
    title = "Not a file"


class UnreadableFileError(ImageError):
    """The operating system refuses to read the file."""

    code = "unreadable_file"
    title = "File cannot be read"


class EmptyImageError(ImageError):
    """There are no bytes."""

    code = "empty_image"
    title = "Empty image"


class NotAnImageError(ImageError):
    """The bytes are no picture."""

    code = "not_an_image"
    title = "Not an image"


class CorruptImageError(ImageError):
    """The picture starts well but is truncated or damaged."""

    code = "corrupt_image"
    title = "Image is truncated or damaged"


class UnsupportedImageError(ImageError):
    """A picture, but of a format that onesheet does not read."""

    code = "unsupported_format"
    status = 415
    title = "Unsupported image format"


class ImageTooLargeError(ImageError):
    """More bytes or pixels than are allowed."""

    code = "image_too_large"
    status = 413
    title = "Image too large"


class ImageShapeError(ImageError):
    """Too small or too elongated to be a poster."""

    code = "not_poster_shaped"
    status = 422
    title = "Not the shape of a poster"


class UrlNotAllowedError(ImageError):
    """An address that is not fetched, whatever is there."""

    code = "url_not_allowed"
    status = 422
    title = "Address is not allowed"


class UrlFetchError(ImageError):
    """Nothing that could be a picture comes from this address."""

    code = "url_unreachable"
    status = 422
    title = "Address cannot be fetched"


# ----------------------------------------------------------------------------------------------- bundles


class BundleError(OnesheetError):
    """A bundle cannot be used."""

    code = "bad_bundle"
    status = 503
    title = "Bad bundle"


class BundleNotFoundError(BundleError):
    """No bundle answers to this reference."""

    code = "bundle_not_found"
    title = "Bundle not found"


class BundleCorruptError(BundleError):
    """A file of the bundle is missing or differs from its recorded hash."""

    code = "bundle_corrupt"
    title = "Bundle is damaged"


class BundleSchemaError(BundleError):
    """The bundle was written for another version of onesheet."""

    code = "bundle_schema"
    title = "Bundle schema is not supported"


class RegistryError(BundleError):
    """The registry cannot be used, or not like that."""

    code = "registry_failed"
    title = "The registry cannot be used"


class UnknownVersionError(RegistryError):
    """The registry holds no such version, or no alias of this name."""

    code = "unknown_version"
    status = 404
    title = "No such version"


class PromotionRefusedError(RegistryError):
    """A version does not pass the gates."""

    code = "promotion_refused"
    status = 409
    title = "Promotion refused"


class MovedMeanwhileError(RegistryError):
    """Somebody else moved the alias first."""

    code = "moved_meanwhile"
    status = 409
    title = "Somebody else was first"


class VerificationError(BundleError):
    """A version does not work as it should."""

    code = "verification_failed"
    title = "The version does not work"


class ModelError(OnesheetError):
    """A model that was loaded fails on a picture, or says something that makes no sense."""

    code = "model_failed"
    status = 500
    title = "The model failed"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or "the model cannot answer this picture; the server's log says why")


class NotReadyError(OnesheetError):
    """The model is still being loaded."""

    code = "not_ready"
    status = 503
    title = "Not ready"


class OverloadedError(OnesheetError):
    """The service has more to do than it can answer in time.

    Attributes:
        retry_after: Whole seconds after which it is worth trying again.
    """

    code = "overloaded"
    status = 503
    title = "Overloaded"

    def __init__(self, message: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(message or "more pictures are waiting than can be answered in time; try again later")
        self.retry_after = retry_after


class ShareExceededError(OverloadedError):
    """The requests of one client hold more than its share; those of others are answered."""

    code = "share_exceeded"
    status = 429
    title = "Too much at once"


# ------------------------------------------------------------------------------------ the prediction log


class LogUnavailableError(OnesheetError):
    """The prediction log cannot be written or read."""

    code = "log_unavailable"
    status = 503
    title = "Prediction log is not available"


class UnknownPredictionError(OnesheetError):
    """No answer in the log has this id."""

    code = "unknown_prediction"
    status = 404
    title = "No such prediction"


class UnknownDriftRunError(OnesheetError):
    """Nothing was compared, or not under this id."""

    code = "unknown_drift_run"
    status = 404
    title = "No such comparison"


class ReportError(OnesheetError):
    """A report could not be made."""

    code = "report_failed"
    title = "No report"


class WebhookError(OnesheetError):
    """Whoever should be told of something does not listen."""

    code = "webhook_failed"
    status = 502
    title = "Nobody was told"


# ---------------------------------------------------------------------------------------- the working bench


class DataError(OnesheetError):
    """Labels or pictures on disk are not what they should be."""

    code = "bad_data"
    status = 422
    title = "Bad data"


class FetchError(DataError):
    """Posters could not be fetched completely."""

    code = "fetch_failed"
    title = "Fetch failed"


class TransferError(DataError):
    """A data version could not be brought to or from its remote completely."""

    code = "transfer_failed"
    status = 502
    title = "Transfer failed"


class ConfigError(OnesheetError):
    """A configuration is wrong."""

    code = "bad_config"
    status = 422
    title = "Bad configuration"


class TrainingError(OnesheetError):
    """Training cannot start or go on."""

    code = "training_failed"
    title = "Training failed"


class CheckpointError(OnesheetError):
    """A checkpoint is missing, damaged, or none of ours."""

    code = "bad_checkpoint"
    title = "Bad checkpoint"


class ExportError(OnesheetError):
    """A checkpoint cannot become a bundle."""

    code = "export_failed"
    title = "Export failed"


class ParityError(ExportError):
    """Torch and ONNX disagree on the same posters."""

    code = "parity_failed"
    title = "Torch and ONNX disagree"


class CloudError(OnesheetError):
    """Google Cloud refuses or fails."""

    code = "cloud_failed"
    status = 502
    title = "Google Cloud refused"


class MissingExtraError(OnesheetError):
    """A command needs an extra that is not installed."""

    code = "missing_extra"
    status = 501
    title = "Extra not installed"


class ApiError(OnesheetError):
    """The API that the web page asks does not answer as it should; the message says what to do."""

    code = "api_error"
    status = 502
    title = "The API did not answer"


class ApiUnavailableError(ApiError):
    """It is away or has too much to do; later the same question may be answered."""

    code = "api_unavailable"
    status = 503
    title = "The API is not available"


def reason(error: BaseException) -> str:
    """What an error of others says, in one line and without local paths; its kind, where it says nothing."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
