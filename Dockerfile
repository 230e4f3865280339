# The sidecar's image. For most:      docker build -t coatcheck .
# A release names the base by digest: docker build --build-arg BASE=python:3.13-slim@sha256:... .
# With wheels at hand and no index:   docker build --build-context wheels=FOLDER --build-arg PIP_NO_INDEX=1 .
# What is in it, as CycloneDX:        docker build --target sbom --output FOLDER .
ARG BASE=python:3.13-slim

# Empty, unless --build-context puts a folder in its place.
FROM scratch AS wheels

FROM ${BASE} AS tools
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_FIND_LINKS=/wheels \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt ./

FROM tools AS build
ARG PIP_NO_INDEX
ARG PIP_INDEX_URL
RUN ["python", "-m", "venv", "--without-pip", "/opt/coatcheck"]
# What others made, before what is ours: it changes seldom, and its layer is kept.
COPY pyproject.toml deploy/image/requirements.py ./
RUN --mount=type=bind,from=wheels,target=/wheels \
    python requirements.py pyproject.toml > requirements.txt \
    && python -m pip --python /opt/coatcheck/bin/python install --quiet -r requirements.txt
COPY README.md LICENSE ./
COPY client client
COPY sidecar sidecar
RUN --mount=type=bind,from=wheels,target=/wheels \
    python -m pip --python /opt/coatcheck/bin/python install --quiet --no-deps .
COPY deploy/image/finish.py ./
RUN ["/opt/coatcheck/bin/python", "finish.py", "/opt/coatcheck"]

FROM tools AS bom
ARG PIP_NO_INDEX
ARG PIP_INDEX_URL
RUN --mount=type=bind,from=wheels,target=/wheels \
    python -m venv --without-pip /opt/bom \
    && python -m pip --python /opt/bom/bin/python install --quiet cyclonedx-bom
COPY pyproject.toml ./
COPY --from=build /opt/coatcheck /opt/coatcheck
RUN ["/opt/bom/bin/cyclonedx-py", "environment", "--pyproject", "pyproject.toml", "--mc-type", \
     "application", "--output-file", "/coatcheck.cdx.json", "/opt/coatcheck"]

FROM scratch AS sbom
COPY --from=bom /coatcheck.cdx.json /

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="coatcheck" \
      org.opencontainers.image.description="Deploy long-running AI agents without losing in-flight work: the sidecar" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /opt/coatcheck /opt/coatcheck
# By COPY alone: from here on nothing is done by a shell.
COPY --from=build --chown=65532:65532 /opt/coatcheck/empty /run/coatcheck
COPY --from=build --chown=65532:65532 /opt/coatcheck/empty /var/lib/coatcheck
# The bytecode of the standard library too: slim bases ship none, and a root file system that is
# read-only would have it compiled at each start.
ENV PATH=/opt/coatcheck/bin:$PATH \
    PYTHONPYCACHEPREFIX=/opt/coatcheck/bytecode \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
VOLUME ["/run/coatcheck", "/var/lib/coatcheck"]
EXPOSE 7071
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s \
    CMD ["/opt/coatcheck/bin/coatcheck", "health"]
ENTRYPOINT ["/opt/coatcheck/bin/coatcheck"]
CMD ["sidecar"]
