/** What a run ran on. */
import { readFile, statfs } from 'node:fs/promises'
import os from 'node:os'
import { nginxVersion } from './nginx.ts'

export async function describeMachine(directory: string): Promise<Record<string, string>> {
  const cpus = os.cpus()
  const { type } = await statfs(directory)
  return {
    date: new Date().toISOString().slice(0, 16),
    cpu: `${cpus.length} × ${cpus[0]?.model.trim() ?? 'unknown'}`,
    'load before': (os.loadavg()[0] ?? 0).toFixed(1),
    memory: `${Math.round(os.totalmem() / 1024 ** 3)} GiB`,
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    'file system type': `0x${type.toString(16)}`,
    node: process.version,
    'nexus-uploader': await versionOf('..'),
    express: await versionOf('../node_modules/express'),
    multer: await versionOf('../node_modules/multer'),
    '@aws-sdk/client-s3': await versionOf('../node_modules/@aws-sdk/client-s3'),
    nginx: orMissing(nginxVersion),
  }
}

function orMissing(version: () => string): string {
  try {
    return version()
  } catch {
    return 'missing'
  }
}

/** `folder` is relative to this one. */
export async function versionOf(folder: string): Promise<string> {
  return String(JSON.parse(await readFile(new URL(`${folder}/package.json`, import.meta.url), 'utf8')).version)
}
