# hybrid-encoder as a command, for a CPU:
#   docker build -t hybrid-encoder .
#   docker run --rm -v "$PWD:/data" -v hybrid-encoder-cache:/cache hybrid-encoder predict image.jpg
# With CUDA (torch's wheels bring it; the host has the driver and NVIDIA's container toolkit):
#   docker build -t hybrid-encoder:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --rm --gpus all ...
# Results in /data belong to the user with the id 1000; add --user "$(id -u):$(id -g)" for another.

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras of pyproject.toml, such as train,export
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/venv
# torch by itself: this layer stays while the sources change. --no-deps, so that nothing else comes from that index.
COPY constraints.txt ./
RUN /opt/venv/bin/pip install --no-deps --index-url "${TORCH_INDEX}" -c constraints.txt torch torchvision
COPY pyproject.toml setup.py README.md LICENSE MANIFEST.in ./
COPY src ./src
COPY adapters ./adapters
RUN /opt/venv/bin/pip install -c constraints.txt ".${EXTRAS:+[${EXTRAS}]}" \
    && /opt/venv/bin/pip check

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/venv /opt/venv
RUN useradd --create-home --uid 1000 encoder \
    && install --directory --owner=encoder --mode=1777 /cache /data
# Weights that are downloaded stay in the volume.
ENV PATH=/opt/venv/bin:$PATH HF_HOME=/cache/huggingface XDG_CACHE_HOME=/cache PYTHONUNBUFFERED=1
VOLUME /cache
WORKDIR /data
USER 1000
ENTRYPOINT ["hybrid-encoder"]
CMD ["--help"]
