"""The serving process: ONNX models behind the Open Inference Protocol, started as an ordinary job of kind `service`.

`python -m dujiang.models.serving --model digits=digits.onnx,version=1.0.0 --port 8000`. It stands alone: of the rest
of Dujiang it imports only leaf modules of kit, so that it starts in well under a second in any environment that has
ONNX Runtime, uvicorn and orjson.
"""
