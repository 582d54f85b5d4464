# Serves ONNX artifacts on a CPU, without PyTorch, as a user who owns nothing. docs/deploying.md says how.
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir --no-deps /src \
 && pip install --no-cache-dir -r /src/serve/requirements.txt \
 && rm -rf /src
USER 10001:10001
WORKDIR /tmp
ENV HOME=/tmp ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/health/live', timeout=2)"]
ENTRYPOINT ["lfdeploy", "serve", "--host", "0.0.0.0", "--log"]
CMD ["/artifact"]
