/**
 * The scripts ask `fnd complete` what may follow. The typed words go to it as arguments and never
 * through `eval`: a half-typed `$(rm -r .)` must not run because somebody pressed TAB.
 */
const bash = `# bash completion for fnd; load it with: source <(fnd completion bash)
_fnd_complete() {
  local line then=:space fnd=\${COMP_WORDS[0]/#\\~/$HOME}
  COMPREPLY=()
  while IFS= read -r line; do
    case $line in
      :*) then=$line ;;
      *) COMPREPLY+=("\${line%%$'\\t'*}") ;;
    esac
  done < <("$fnd" complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  if [[ $then == :files ]]; then
    compopt -o default 2>/dev/null
    COMPREPLY=()
  elif [[ $then == :more ]]; then
    compopt -o nospace 2>/dev/null
  fi
}
complete -F _fnd_complete fnd
`

const zsh = `#compdef fnd
# zsh completion for fnd; load it with: source <(fnd completion zsh)
_fnd() {
  local -a lines items
  local line then=:space fnd=\${words[1]/#\\~/$HOME}
  lines=("\${(@f)$("$fnd" complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  for line in "\${lines[@]}"; do
    case $line in
      :*) then=$line ;;
      ?*) items+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}") ;;
    esac
  done
  case $then in
    :files) _files ;;
    :more) _describe -t values fnd items -S '' ;;
    *) _describe -t values fnd items ;;
  esac
}
if [[ $funcstack[1] == _fnd ]]; then
  _fnd "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
  compdef _fnd fnd
fi
`

const fish = `# fish completion for fnd; put it into ~/.config/fish/completions/fnd.fish
function __fnd_complete
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    set -l lines (fnd complete -- $typed[2..-1] "$current" 2>/dev/null)
    test (count $lines) -gt 0; or return
    if test "$lines[-1]" = ':files'
        __fish_complete_path "$current"
    else if test (count $lines) -gt 1
        printf '%s\\n' $lines[1..-2]
    end
end
complete -c fnd -f
complete -c fnd -a '(__fnd_complete)'
`

export const completionScripts = { bash, zsh, fish } as const
