# An image that runs the demo on CPUs:
#
#   docker build -t phlogiston .
#   docker run --rm -v "$PWD/runs:/runs" phlogiston            # leaves runs/demo/report.html
#   docker run --rm phlogiston phlogiston systems              # or any other command
#
# PyTorch's CPU build is a fifth of the size of the one with CUDA. Where an index has it (PyTorch's "get started" page
# names one), say so: docker build --build-arg TORCH_INDEX=ADDRESS -t phlogiston .
FROM python:3.11-slim
ARG TORCH_INDEX=

WORKDIR /phlogiston
COPY requirements.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements.txt)" \
 && pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps .

WORKDIR /
ENV PHLOGISTON_DATA=/runs/data
VOLUME /runs
CMD ["phlogiston", "demo", "--quick", "--out", "/runs/demo"]
