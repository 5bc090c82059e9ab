# The detector as a service, on a CPU. In the folder with the checkpoint directory:
#   docker build -t violence-detector .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/checkpoints:/checkpoints:ro" \
#     -e VIOLENCE_API_TOKEN=... violence-detector
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app

# What changes rarely comes first: a step is cached as long as its files are unchanged.
COPY requirements.txt requirements-deploy.txt requirements-extra-deploy.txt ./
RUN pip install --no-cache-dir -r requirements-deploy.txt

COPY serve.py ./
COPY violence_detection ./violence_detection
RUN useradd --system --uid 10001 detector && mkdir /checkpoints
USER 10001

VOLUME /checkpoints
EXPOSE 8000
# Alive; /readyz says whether it is ready, but also says no while it is busy, and needs the token.
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
# It listens on all addresses of the container, which requires VIOLENCE_API_TOKEN.
ENTRYPOINT ["python", "serve.py", "--checkpoint-dir", "/checkpoints", "--host", "0.0.0.0", "--port", "8000"]
