/**
 * What may follow the words typed so far, read from the tree of commands itself, so that help and
 * completion cannot differ. The words of arguments say what completes them: `<app>`, `<app/fn>`,
 * `<file>`; so do those of options.
 */
import type { Argument, Command, Option } from 'commander'

export interface Completion {
  readonly value: string
  readonly note: string
}

export interface Completions {
  readonly items: readonly Completion[]
  /** `space`: a finished word. `more`: the word goes on. `files`: names of files are wanted. */
  readonly ending: 'space' | 'more' | 'files'
}

/** Names known to the server; each resolves empty where it cannot be asked. */
export interface NameSource {
  apps(): Promise<string[]>
  fns(appName: string): Promise<string[]>
  triggers(appName: string, fnName: string): Promise<string[]>
  nodes(): Promise<string[]>
}

/** `words` are those after `fnd`; the last is the one under the cursor, perhaps empty. */
export async function completionsOf(
  program: Command,
  words: readonly string[],
  names: NameSource,
): Promise<Completions> {
  const typed = rejoin(words)
  const current = typed.at(-1) ?? ''
  const { command, positionals, pending } = walk(program, typed.slice(0, -1))
  if (pending !== undefined) return valuesOf(pending, current, names)
  const equals = current.indexOf('=')
  if (current.startsWith('--') && equals > 0) {
    const option = findOption(command, current.slice(0, equals))
    if (option === undefined) return { items: [], ending: 'space' }
    const found = await valuesOf(option, current.slice(equals + 1), names)
    // bash splits a word at `=` and wants the value alone; the others want the whole word.
    const prefix = typed.length === words.length ? current.slice(0, equals + 1) : ''
    return { ...found, items: found.items.map(one => ({ ...one, value: prefix + one.value })) }
  }
  if (current.startsWith('-')) {
    return matching(
      optionsOf(command).map(one => ({ value: one.long ?? one.flags, note: one.description })),
      current,
    )
  }
  const children = positionals === 0 ? command.createHelp().visibleCommands(command) : []
  const commands = children
    .filter(one => one.name() !== '')
    .map(one => ({ value: one.name(), note: one.description() }))
  const argument = argumentAt(command, positionals)
  if (argument === undefined || command === program) return matching(commands, current)
  return valuesOf(argument, current, names)
}

/** Puts back together what bash split: `--app`, `=`, `x` are one word. */
function rejoin(words: readonly string[]): string[] {
  const joined: string[] = []
  for (let index = 0; index < words.length; index++) {
    const word = words[index] ?? ''
    const last = joined.at(-1)
    if (word === '=' && last?.startsWith('--')) {
      joined[joined.length - 1] = `${last}=${words[index + 1] ?? ''}`
      index += 1
    } else {
      joined.push(word)
    }
  }
  return joined
}

/** Follows finished words down the tree. `pending` is an option that still wants its value. */
function walk(
  program: Command,
  words: readonly string[],
): { command: Command; positionals: number; pending?: Option } {
  let command = program
  let positionals = 0
  for (let index = 0; index < words.length; index++) {
    const word = words[index] ?? ''
    if (word.startsWith('-')) {
      const option = findOption(command, word)
      if (option === undefined || word.includes('=') || !(option.required || option.optional)) {
        continue
      }
      if (index === words.length - 1) return { command, positionals, pending: option }
      index += 1
      continue
    }
    const child = command.commands.find(one => one.name() === word || one.aliases().includes(word))
    if (positionals === 0 && child !== undefined) command = child
    else positionals += 1
  }
  return { command, positionals }
}

function optionsOf(command: Command): Option[] {
  const help = command.createHelp()
  return [...help.visibleOptions(command), ...help.visibleGlobalOptions(command)]
}

function findOption(command: Command, word: string): Option | undefined {
  return optionsOf(command).find(option => option.long === word || option.short === word)
}

function argumentAt(command: Command, index: number): Argument | undefined {
  const all = command.registeredArguments
  const last = all.at(-1)
  return all[index] ?? (last?.variadic ? last : undefined)
}

async function valuesOf(
  wanted: Option | Argument,
  current: string,
  names: NameSource,
): Promise<Completions> {
  if (wanted.argChoices !== undefined) {
    return matching(
      wanted.argChoices.map(value => ({ value, note: '' })),
      current,
    )
  }
  const kind = 'flags' in wanted ? (/<([^>]+)>/.exec(wanted.flags)?.[1] ?? '') : wanted.name()
  if (/^(file|dir|path|file-or-dir)$/.test(kind)) return { items: [], ending: 'files' }
  if (kind === 'node') {
    return matching(
      (await names.nodes()).map(value => ({ value, note: '' })),
      current,
    )
  }
  return namesOf(kind, current, names)
}

async function namesOf(kind: string, current: string, names: NameSource): Promise<Completions> {
  const parts = current.split('/')
  const [appName = '', fnName = ''] = parts
  const depth = kind.includes('app/fn/trigger') ? 3 : kind.includes('app/fn') ? 2 : 1
  if (!/(^|\|)app(\/|\||$)/.test(kind) || parts.length > depth)
    return { items: [], ending: 'space' }
  const found =
    parts.length === 1
      ? (await names.apps()).map(name => (depth > 1 ? `${name}/` : name))
      : parts.length === 2
        ? (await names.fns(appName)).map(name => `${appName}/${name}${depth > 2 ? '/' : ''}`)
        : (await names.triggers(appName, fnName)).map(name => `${appName}/${fnName}/${name}`)
  const isMore = parts.length < depth
  // `config set shop …` takes the app alone too.
  const alone = isMore && /^app\|/.test(kind) ? found.map(name => name.slice(0, -1)) : []
  return {
    ...matching(
      [...alone, ...found].map(value => ({ value, note: '' })),
      current,
    ),
    ending: isMore ? 'more' : 'space',
  }
}

function matching(items: readonly Completion[], current: string): Completions {
  return { items: items.filter(item => item.value.startsWith(current)), ending: 'space' }
}
