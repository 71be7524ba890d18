# Links to the command. Sourced by install.sh.
# shellcheck shell=bash

# link_command COMMAND LINK: a link, unless something else has that name already.
link_command() {
  if [ -L "$2" ] && [ "$(readlink "$2")" = "$1" ]; then
    return 0
  elif [ -e "$2" ] || [ -L "$2" ]; then
    echo "$2 exists and is not this one's: left as it is" >&2
    return 0
  fi
  ln -s "$1" "$2"
  echo "command: $2"
}
