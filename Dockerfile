# A small CPU image that runs as an ordinary user. Build: docker build -t likeness .
# The model is built in; choose another with --build-arg FACE_MODEL=facenet128-int8.
FROM python:3.11-slim-bookworm AS build
WORKDIR /app
COPY requirements-heroku.txt requirements-build.txt build.sh ./
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements-heroku.txt
COPY app app
COPY faces faces
COPY indexer indexer
COPY migrations migrations
ARG FACE_MODEL=facenet512
ARG ENCODER
ARG FACE_RECOGNITION_ENABLED
RUN PYTHON=/opt/venv/bin/python ./build.sh

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app likeness
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build --chown=likeness /app /app
ARG FACE_MODEL=facenet512
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    APP_ENV=production \
    HOST=0.0.0.0 \
    PORT=8000 \
    FACE_MODEL=${FACE_MODEL}
USER likeness
EXPOSE 8000
HEALTHCHECK --start-period=10s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=3)"]
CMD ["python", "-m", "app", "serve", "--workers", "1", "--graceful", "15"]
