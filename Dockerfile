# The two images of the FineTuneJob operator:
#
#   docker build --target operator --tag REGISTRY/finetune-operator:TAG .
#   docker build --target trainer  --tag REGISTRY/finetune-trainer:TAG .
#
# Written for Docker and buildah alike. Everything that varies comes by COPY, and nothing by RUN --mount=type=bind:
# buildah does not look into what is mounted when it decides whether a cached layer still holds.

# The minor version of .python-version, so that the images run what the tests ran on.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG UV_VERSION=0.13.9
ARG HATCHLING_VERSION=1.33.0

FROM ${PYTHON_IMAGE} AS base
LABEL org.opencontainers.image.vendor="finetune.dev" \
      org.opencontainers.image.licenses="Apache-2.0"
# The official image's own site-packages are pip and its like. Nothing is installed in a running container.
# Kubernetes needs the user as a number, but Python's getpass (which torch calls) wants that number to have a name.
RUN rm -rf /usr/local/bin/pip* /usr/local/bin/wheel /usr/local/lib/python3*/site-packages/* \
    && echo 'finetune:x:65532:' >> /etc/group \
    && echo 'finetune:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd

# What builds the images and is in neither.
FROM base AS tools
ARG UV_VERSION
ARG HATCHLING_VERSION
RUN python3 -m venv /opt/tools \
    && PIP_CERT=/etc/ssl/certs/ca-certificates.crt /opt/tools/bin/pip install --quiet --no-cache-dir \
        --disable-pip-version-check uv==${UV_VERSION} hatchling==${HATCHLING_VERSION}
WORKDIR /src

# One list of pinned and hashed packages for each image. It stands between uv.lock and the large layers, so that these
# are made anew only when something in them has changed.
FROM tools AS requirements
COPY pyproject.toml uv.lock ./
# Triton compiles its kernels with gcc when they are first called. Without it torch takes its own kernels from the
# start; with it, and without gcc, it would fail in the middle of training. It would also add 1 GB.
RUN for image in operator trainer; do \
        /opt/tools/bin/uv export --quiet --frozen --no-dev --no-emit-project --no-header --no-annotate \
            --extra $image --no-emit-package triton --output-file /requirements/$image.txt || exit 1; \
    done

# A wheel of only the packages that the image runs: a change in the trainer does not roll the operator.
FROM tools AS operator-wheel
COPY LICENSE pyproject.toml ./
COPY crds/finetune_api crds/finetune_api
COPY operator/finetune_operator operator/finetune_operator
RUN /opt/tools/bin/uv build --quiet --wheel --no-build-isolation --python /opt/tools/bin/python --out-dir /wheel

FROM tools AS trainer-wheel
COPY LICENSE pyproject.toml ./
COPY crds/finetune_api crds/finetune_api
COPY trainer_image/finetune_trainer trainer_image/finetune_trainer
RUN /opt/tools/bin/uv build --quiet --wheel --no-build-isolation --python /opt/tools/bin/python --out-dir /wheel

# uv comes and goes within one step: the packages are never copied from one stage to another, which for the trainer
# would cost as much again in time and disk.
FROM base AS operator
ARG UV_VERSION
COPY --from=requirements /requirements/operator.txt /opt/finetune/requirements.txt
RUN python3 -m venv /tmp/uv \
    && PIP_CERT=/etc/ssl/certs/ca-certificates.crt /tmp/uv/bin/pip install --quiet --no-cache-dir \
        --disable-pip-version-check uv==${UV_VERSION} \
    && /tmp/uv/bin/uv venv --quiet /opt/venv \
    && /tmp/uv/bin/uv pip sync --quiet --no-cache --system-certs --require-hashes --compile-bytecode \
        --python /opt/venv/bin/python /opt/finetune/requirements.txt \
    && rm -rf /tmp/uv
COPY --from=operator-wheel /wheel/*.whl /opt/finetune/
RUN python3 -m venv /tmp/pip \
    && /tmp/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
        --no-index --no-deps /opt/finetune/*.whl \
    && rm -rf /tmp/pip /opt/venv/bin/finetune-trainer
# The root file system is read-only in the cluster: homes, caches and scratch files go to /tmp.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
LABEL org.opencontainers.image.title="finetune-operator" \
      org.opencontainers.image.description="Turns FineTuneJobs into training pods and shows how far they have come."
ENTRYPOINT ["finetune-operator"]

FROM base AS trainer
ARG UV_VERSION
COPY --from=requirements /requirements/trainer.txt /opt/finetune/requirements.txt
RUN python3 -m venv /tmp/uv \
    && PIP_CERT=/etc/ssl/certs/ca-certificates.crt /tmp/uv/bin/pip install --quiet --no-cache-dir \
        --disable-pip-version-check uv==${UV_VERSION} \
    && /tmp/uv/bin/uv venv --quiet /opt/venv \
    && /tmp/uv/bin/uv pip sync --quiet --no-cache --system-certs --require-hashes --compile-bytecode \
        --python /opt/venv/bin/python /opt/finetune/requirements.txt \
    && rm -rf /tmp/uv
COPY --from=trainer-wheel /wheel/*.whl /opt/finetune/
RUN python3 -m venv /tmp/pip \
    && /tmp/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
        --no-index --no-deps /opt/finetune/*.whl \
    && rm -rf /tmp/pip /opt/venv/bin/finetune /opt/venv/bin/finetune-operator /opt/venv/bin/kubectl-finetune
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
LABEL org.opencontainers.image.title="finetune-trainer" \
      org.opencontainers.image.description="Trains a language model as a FineTuneJob asks."
ENTRYPOINT ["finetune-trainer"]
