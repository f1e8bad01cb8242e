"""What a client of a served model can be told, each with its HTTP status. Rendered as `{"error": sentence}`."""

from __future__ import annotations

from typing import ClassVar

from dujiang.kit.errors import DujiangError, NotFound, Unavailable


class BadRequest(DujiangError):
    """The request is not one of the Open Inference Protocol, or does not fit the model."""

    code: ClassVar[str] = "bad_inference_request"
    http_status: ClassVar[int] = 400
    title: ClassVar[str] = "The request does not fit the model"


class NotServed(NotFound):
    """No such path, model or version in this process."""

    code: ClassVar[str] = "not_served"


class WrongMethod(DujiangError):
    """The path exists and takes another HTTP method."""

    code: ClassVar[str] = "wrong_method"
    http_status: ClassVar[int] = 405
    title: ClassVar[str] = "Wrong method"


class TooLarge(DujiangError):
    """The body is longer than the process was told to accept."""

    code: ClassVar[str] = "body_too_large"
    http_status: ClassVar[int] = 413
    title: ClassVar[str] = "Body too large"


class WrongMediaType(DujiangError):
    """The body is neither JSON nor the protocol's binary form, or is compressed."""

    code: ClassVar[str] = "wrong_media_type"
    http_status: ClassVar[int] = 415
    title: ClassVar[str] = "Unsupported media type"


class Overloaded(Unavailable):
    """The queue of the model is full, or the request has waited in it for too long."""

    code: ClassVar[str] = "overloaded"


class CallerGone(DujiangError):
    """The caller closed the connection before the answer; counted, and told to nobody."""

    code: ClassVar[str] = "caller_gone"
    http_status: ClassVar[int] = 499
    title: ClassVar[str] = "The caller has gone"


class ModelFailed(DujiangError):
    """The model itself failed on this request, for a reason that is not the caller's."""

    code: ClassVar[str] = "model_failed"
    http_status: ClassVar[int] = 500
    title: ClassVar[str] = "The model failed"


class CannotLoad(DujiangError):
    """A model file cannot be served; the process does not start."""

    code: ClassVar[str] = "cannot_load"
    title: ClassVar[str] = "The model cannot be loaded"
