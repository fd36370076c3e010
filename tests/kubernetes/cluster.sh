#!/bin/bash
# A real Kubernetes 1.20 of one node, from Debian's packages and its source package: where no registry of images and no
# download site can be reached. Debian 12, root. Built once: 10 minutes and 6 GB; up in half a minute, with 0.6 GB.
#
#   cluster.sh build DIR | cluster.sh up DIR IMAGE | cluster.sh down DIR
#
# Needs podman, runc, containernetworking-plugins, kubectl and gcc, and sources of Debian in apt. Go, etcd and containerd
# are unpacked into DIR, not installed. The node has one GPU that is only counted. Pods reach this machine at 10.77.0.1.
set -e
DIR=$(realpath -m "$2")
mkdir -p "$DIR"/{bin,debs,root,run/cni,k8s,apt/lists/partial,apt/cache/archives/partial}
PATH=$DIR/root/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin
KUBECONFIG=$DIR/kubeconfig
CTR="ctr -a $DIR/run/containerd.sock -n k8s.io"
API=https://127.0.0.1:6443
export PATH KUBECONFIG

build() {
  [ -x "$DIR/bin/kubelet" ] && return
  mirror=$(grep -m1 '^URIs' /etc/apt/sources.list.d/debian.sources | awk '{print $2}')
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" > "$DIR/apt/sources.list"
  options=(-o "Dir::Etc::sourcelist=$DIR/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$DIR/apt/lists" -o "Dir::Cache=$DIR/apt/cache")
  apt-get "${options[@]}" update
  (cd "$DIR" && apt-get "${options[@]}" source --download-only kubernetes)
  (cd "$DIR/debs" && apt-get download golang-1.19-go golang-1.19-src etcd-server containerd \
    golang-github-modern-go-reflect2-dev)
  for package in "$DIR"/debs/*.deb; do dpkg -x "$package" "$DIR/root"; done
  rm -rf "$DIR/gopath"
  mkdir -p "$DIR/gopath/src/k8s.io"
  tar xzf "$DIR"/kubernetes_*.orig.tar.gz -C "$DIR/gopath/src/k8s.io"
  mv "$DIR"/gopath/src/k8s.io/kubernetes-* "$DIR/gopath/src/k8s.io/kubernetes"
  export GOROOT=$DIR/root/usr/lib/go-1.19 GOPATH=$DIR/gopath GOCACHE=$DIR/gocache CGO_ENABLED=0 GO111MODULE=off GOFLAGS=
  PATH=$GOROOT/bin:$PATH
  cd "$GOPATH/src/k8s.io/kubernetes"
  # The vendored reflect2 1.0.1 ends the API server under Go from 1.18 on; Debian's 1.0.2 does not.
  reflect2=vendor/github.com/modern-go/reflect2
  rm -f $reflect2/*.go $reflect2/*.s
  cp "$DIR"/root/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} $reflect2/
  rm -f $reflect2/*_test.go
  # What `make generated_files` would make: the API server's own OpenAPI.
  go build -o "$DIR/bin/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  marked=$(grep -rl --include=*.go '+k8s:openapi-gen=' pkg staging/src/k8s.io --exclude-dir=testdata --exclude-dir=test |
    grep -vE '_test.go|zz_generated|kube-openapi|code-generator|sample-|kube-aggregator/pkg/apis/apiregistration/[a-z]*.go' |
    xargs -n1 dirname | sort -u | sed 's#^staging/src/##; s#^pkg#k8s.io/kubernetes/pkg#')
  for more in kube-aggregator/pkg/apis/apiregistration/v1{,beta1} \
    apimachinery/pkg/{version,runtime,util/intstr,api/resource}; do
    marked+=$'\n'k8s.io/$more
  done
  staged='api\|apimachinery\|apiextensions-apiserver\|kube-aggregator\|apiserver\|component-base\|client-go\|metrics'
  staged+='\|controller-manager\|kube-scheduler\|kubelet\|kube-proxy\|kube-controller-manager\|cloud-provider'
  packages=$(sed "s#^k8s.io/\($staged\)/#k8s.io/kubernetes/vendor/k8s.io/\1/#" <<< "$marked" | sort -u | paste -sd,)
  "$DIR/bin/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h hack/boilerplate/boilerplate.generatego.txt -r "$DIR/violations.txt"
  go build -trimpath -ldflags "-s -w" -o "$DIR/bin/" ./cmd/kube-apiserver ./cmd/kubelet ./cmd/kube-scheduler
}

start() { # NAME COMMAND...: in the background, with its number and its output in files
  setsid "${@:2}" > "$DIR/k8s/$1.log" 2>&1 &
  echo $! > "$DIR/k8s/$1.pid"
}

up() {
  image=$1
  cd "$DIR/run"
  # The container that holds a pod's network: it waits, and reaps.
  cat > pause.c <<'C'
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void down(int s) { exit(0); }
static void reap(int s) { while (waitpid(-1, NULL, WNOHANG) > 0); }
int main() { signal(SIGINT, down); signal(SIGTERM, down); signal(SIGCHLD, reap); for (;;) pause(); }
C
  gcc -static -Os -o pause pause.c
  printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' > Dockerfile
  podman build --isolation chroot -t localhost/pause:v1 .
  cat > containerd.toml <<C
version = 2
root = "$DIR/run/root"
state = "$DIR/run/state"
[grpc]
  address = "$DIR/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "localhost/pause:v1"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$DIR/run/cni"
C
  cat > cni/10.conflist <<C
{"cniVersion": "0.4.0", "name": "tests", "plugins": [{"type": "bridge", "bridge": "mlops0", "isGateway": true,
 "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]],
 "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "$DIR/run/ipam"}}]}
C
  start containerd containerd -c containerd.toml
  until $CTR version > /dev/null 2>&1; do sleep 0.3; done
  for one in localhost/pause:v1 "$image"; do
    podman save --format docker-archive -o image.tar "$one"
    $CTR images import image.tar
    rm image.tar
  done
  cd "$DIR/k8s"
  [ -f sa.key ] || openssl genrsa -out sa.key 2048
  token=$(openssl rand -hex 16)
  echo "$token,admin,admin,\"system:masters\"" > tokens.csv
  cat > "$KUBECONFIG" <<C
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {insecure-skip-tls-verify: true, server: "$API"}}]
users: [{name: u, user: {token: $token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
C
  start etcd etcd --data-dir etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
  start api "$DIR/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=127.0.0.1 \
    --cert-dir=certs --token-auth-file=tokens.csv --authorization-mode=RBAC --service-cluster-ip-range=10.0.0.0/24 \
    --service-account-issuer=https://k --service-account-signing-key-file=sa.key --service-account-key-file=sa.key \
    --disable-admission-plugins=ServiceAccount --kubelet-preferred-address-types=InternalIP
  until curl -sk --noproxy '*' $API/healthz | grep -q ^ok; do sleep 0.3; done
  start scheduler "$DIR/bin/kube-scheduler" --kubeconfig="$KUBECONFIG" --leader-elect=false --authentication-skip-lookup \
    --port=0
  start kubelet "$DIR/bin/kubelet" --kubeconfig="$KUBECONFIG" --container-runtime=remote \
    --container-runtime-endpoint="unix://$DIR/run/containerd.sock" --image-service-endpoint="unix://$DIR/run/containerd.sock" \
    --root-dir="$DIR/run/kubelet" --cert-dir="$DIR/run/pki" --cgroups-per-qos=false --enforce-node-allocatable= \
    --fail-swap-on=false --hostname-override=node1 --node-ip="$(hostname -I | awk '{print $1}')" --cgroup-driver=cgroupfs \
    --authorization-mode=AlwaysAllow --anonymous-auth=true --eviction-hard= --image-gc-high-threshold=100 \
    --read-only-port=0
  until kubectl get node node1 2> /dev/null | grep -q ' Ready'; do sleep 0.5; done
  kubectl taint node node1 node.kubernetes.io/not-ready- || true # there is no controller manager that would
  curl -sk --noproxy '*' -X PATCH -H "Authorization: Bearer $token" -H 'Content-Type: application/json-patch+json' \
    --data '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "1"}]' \
    $API/api/v1/nodes/node1/status > /dev/null
  kubectl get nodes
}

down() {
  kubectl delete pods --all -A --grace-period=1 --wait=true || true
  for one in kubelet scheduler api etcd; do kill "$(cat "$DIR/k8s/$one.pid")" || true; done
  sleep 2
  for task in $($CTR tasks ls -q); do $CTR tasks kill -s 9 "$task"; done
  kill "$(cat "$DIR/k8s/containerd.pid")" || true
  grep -o "$DIR/run/[^ ]*" /proc/mounts | sort -r | xargs -r -n1 umount -l
  ip link del mlops0 || true
  rm -rf "$DIR/k8s/etcd" "$DIR/run/ipam"
}

"$1" "${@:3}"
