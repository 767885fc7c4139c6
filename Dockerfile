# CPU only. Build: docker build -t detrigger .
# Run:  docker run --rm --network none --read-only --tmpfs /tmp -v "$PWD:/work" --user "$(id -u):$(id -g)" \
#         detrigger scan model.safetensors --data images/ --arch timm:resnet18 --out report
FROM python:3.12-slim AS build
WORKDIR /source
RUN python -m venv /opt/detrigger \
    && /opt/detrigger/bin/pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/detrigger/bin/pip install --no-cache-dir '.[onnx,parquet]'

FROM python:3.12-slim
COPY --from=build /opt/detrigger /opt/detrigger
RUN useradd --create-home --uid 1000 detrigger
USER 1000
ENV PATH=/opt/detrigger/bin:$PATH HOME=/tmp HF_HUB_OFFLINE=1
WORKDIR /work
ENTRYPOINT ["detrigger"]
