FROM scratch
ADD rootfs.tar /
COPY kube-proxy /usr/local/bin/kube-proxy
