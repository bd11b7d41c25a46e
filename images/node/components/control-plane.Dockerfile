# kube-apiserver, kube-controller-manager, kube-scheduler and etcd: kubeadm's manifests name the command.
FROM scratch
ARG PROGRAM
COPY ${PROGRAM} /usr/local/bin/${PROGRAM}
ENV PATH=/usr/local/bin
