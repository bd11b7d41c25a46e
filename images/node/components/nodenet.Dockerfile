FROM scratch
COPY nodenet /nodenet
ENTRYPOINT ["/nodenet"]
