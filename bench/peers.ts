/** The servers of others: in `bench/node_modules`, so that nobody else has to install them. */
import { spawnSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { versionOf } from './machine.ts'

const folder = fileURLToPath(new URL('.', import.meta.url))

async function wanted(): Promise<[name: string, version: string][]> {
  const { dependencies } = JSON.parse(await readFile(new URL('package.json', import.meta.url), 'utf8'))
  return Object.entries<string>(dependencies)
}

/** Installs what is missing or has another version. A server that is not there afterwards is left out. */
export async function installPeers(): Promise<void> {
  const found = await peerVersions()
  const missing = (await wanted()).filter(([name, version]) => found[name] !== version)
  if (missing.length === 0) return
  console.error(`Installing into bench/node_modules, once: ${missing.map((peer) => peer.join('@')).join(' ')}`)
  const flags = ['--prefix', folder, '--no-package-lock', '--ignore-scripts', '--no-audit', '--no-fund']
  const { status, error } = spawnSync('npm', ['install', ...flags], {
    stdio: ['ignore', process.stderr, process.stderr],
  })
  if (status !== 0) console.error(`npm install failed: ${error?.message ?? `exit code ${status}`}`)
}

export async function peerVersions(): Promise<Record<string, string>> {
  const versions: Record<string, string> = {}
  for (const [name] of await wanted()) {
    versions[name] = await versionOf(`node_modules/${name}`).catch(() => 'missing')
  }
  return versions
}
