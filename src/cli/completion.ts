import { Argument, type Command } from 'commander'
import { readClientConfig } from '../config.ts'
import { FndClient } from './client.ts'
import { completionsOf, type NameSource } from './complete.ts'
import { completionScripts } from './completion-scripts.ts'
import { listNodes } from './nodes.ts'
import { findApp, listApps, listFns, listTriggers } from './objects.ts'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'

/** A person waits with a finger on the key; longer is worse than no names. */
const namesTimeoutMs = 1500

export function addCompletion(program: Command, host: Host): void {
  const command = program
    .command('completion')
    .description('print the script that makes a shell complete fnd commands and names')
    .addArgument(new Argument('<shell>', 'which shell').choices(['bash', 'zsh', 'fish']))
    .action(
      runs(host, async (session, shell: keyof typeof completionScripts) => {
        const script = completionScripts[shell]
        await session.print({ shell, script }, () => script.trimEnd())
      }),
    )
  examples(command, [
    ["echo 'source <(fnd completion bash)' >> ~/.bashrc", 'bash'],
    ["echo 'source <(fnd completion zsh)' >> ~/.zshrc", 'zsh'],
    ['fnd completion fish > ~/.config/fish/completions/fnd.fish', 'fish'],
  ])
  // What the scripts call, with the words typed so far. Everything after `complete` is data.
  program
    .command('complete', { hidden: true })
    .argument('[words...]')
    .helpOption(false)
    .allowUnknownOption()
    .action(
      runs(host, async (session, words: string[]) => {
        const found = await completionsOf(program, words, namesFrom(host, words))
        const lines = found.items.map(item => `${item.value}\t${item.note.replace(/\s+/g, ' ')}`)
        await session.terminal.line([...lines, `:${found.ending}`].join('\n'))
      }),
    )
}

/** Names from the server that the typed words point at. A fault means no names, not a message. */
function namesFrom(host: Host, words: readonly string[]): NameSource {
  const read = readClientConfig({ ...flag(words, 'url'), ...flag(words, 'token') }, host.env)
  const none = async () => []
  if (!read.ok) return { apps: none, fns: none, triggers: none, nodes: none }
  const client = new FndClient(read.config)
  const orNone = async (find: () => Promise<string[]>): Promise<string[]> => {
    const late = new Promise<string[]>(resolve => setTimeout(resolve, namesTimeoutMs, []))
    return Promise.race([find().catch(() => []), late])
  }
  const names = (list: readonly { readonly name: string }[]) => list.map(one => one.name)
  return {
    nodes: () => orNone(async () => names((await listNodes(client)).items)),
    apps: () => orNone(async () => names(await listApps(client))),
    fns: appName =>
      orNone(async () => {
        const app = await findApp(client, appName)
        return app === undefined ? [] : names(await listFns(client, app.id))
      }),
    triggers: (appName, fnName) =>
      orNone(async () => {
        const app = await findApp(client, appName)
        if (app === undefined) return []
        const fn = (await listFns(client, app.id)).find(one => one.name === fnName)
        return fn === undefined ? [] : names(await listTriggers(client, app.id, fn.id))
      }),
  }
}

function flag(words: readonly string[], name: 'url' | 'token'): Record<string, string> {
  const at = words.indexOf(`--${name}`)
  const next = at < 0 ? undefined : words[at + 1]
  const joined = words.find(word => word.startsWith(`--${name}=`))
  const value = next ?? joined?.slice(name.length + 3)
  return value === undefined || value === '' ? {} : { [name]: value }
}
