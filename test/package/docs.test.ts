/** The documents say what the code does: examples compile, links lead somewhere, options and codes are all there. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, join, relative, resolve, sep } from 'node:path'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { createUploadEngine } from '../../src/create-upload-engine.ts'
import * as errors from '../../src/errors.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { tempFolder } from '../support/temp-folder.ts'

const root = resolve(import.meta.dirname, '../..')
const src = join(root, 'src')
/** Fences that are a piece of a type listing and cannot stand alone. */
const maxIgnored = 3

const guides = ['README.md', ...filesIn('docs', '.md')]
const documents = [...guides, 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md']

function filesIn(folder: string, extension: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(extension))
    .map((name) => `${folder}/${name.split(sep).join('/')}`)
    .sort()
}

function read(name: string): string {
  return readFileSync(join(root, name), 'utf8')
}

// ----------------------------------------------------------------------------------------------- fences

interface Fence {
  readonly document: string
  readonly line: number
  readonly language: string
  /** What follows the language, `ignore` for example. */
  readonly mark: string
  readonly code: string
}

function fencesOf(document: string): Fence[] {
  const fences: Fence[] = []
  let open: { line: number; info: string; code: string[] } | null = null
  for (const [index, text] of read(document).split('\n').entries()) {
    const tick = /^```(.*)$/.exec(text)
    if (!tick) open?.code.push(text)
    else if (!open) open = { line: index + 1, info: (tick[1] ?? '').trim(), code: [] }
    else {
      const [language = '', ...mark] = open.info.split(/\s+/)
      fences.push({ document, line: open.line, language, mark: mark.join(' '), code: open.code.join('\n') })
      open = null
    }
  }
  if (open) throw new Error(`${document}:${open.line} opens a fence and does not close it`)
  return fences
}

const isTs = ({ language }: Fence) => language === 'ts' || language === 'typescript'
const isJs = ({ language }: Fence) => language === 'js' || language === 'javascript'

const fences = guides.flatMap(fencesOf)
const examples = fences.filter((fence) => (isTs(fence) || isJs(fence)) && fence.mark !== 'ignore')

/** Examples as files that exist in the compiler's eyes only, beside the real package so that it resolves as usual. */
const virtual = new Map(
  examples.map((fence) => {
    const name = `${fence.document.replace(/\W+/g, '-')}-line-${fence.line}.${isTs(fence) ? 'ts' : 'js'}`
    return [join(root, 'test/package', name), fence] as const
  }),
)

function compilerOptions(): ts.CompilerOptions {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.parseJsonConfigFileContent({ ...config, files: [], include: [] }, ts.sys, root)
  const entry = (name: string) => [join(src, `${name}.ts`)]
  return {
    ...options,
    lib: ['lib.es2024.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'],
    allowJs: true,
    checkJs: false,
    moduleDetection: ts.ModuleDetectionKind.Force,
    paths: {
      'nexus-uploader': entry('index'),
      'nexus-uploader/s3': entry('s3'),
      'nexus-uploader/tus': entry('tus'),
      'nexus-uploader/ietf': entry('ietf'),
      'nexus-uploader/resumablejs': entry('resumablejs'),
      'nexus-uploader/uppy': entry('uppy'),
      'nexus-uploader/client': entry('client-node'),
      'nexus-uploader/redis': entry('redis'),
      'nexus-uploader/testing': entry('testing'),
    },
  }
}

function compile(): ts.Program {
  const options = compilerOptions()
  const host = ts.createCompilerHost(options)
  const { fileExists, readFile, getSourceFile } = host
  host.fileExists = (path) => virtual.has(path) || fileExists(path)
  host.readFile = (path) => virtual.get(path)?.code ?? readFile(path)
  host.getSourceFile = (path, languageVersion, ...rest) => {
    const fence = virtual.get(path)
    return fence
      ? ts.createSourceFile(path, fence.code, languageVersion, true)
      : getSourceFile(path, languageVersion, ...rest)
  }
  const names = ['index', 's3', 'tus', 'ietf', 'resumablejs', 'uppy', 'client', 'client-node', 'redis', 'testing']
  const entries = names.map((name) => join(src, `${name}.ts`))
  return ts.createProgram([...virtual.keys(), ...entries], options, host)
}

const program = compile()
const checker = program.getTypeChecker()

function sourceOf(path: string): ts.SourceFile {
  const source = program.getSourceFile(path)
  if (!source) throw new Error(`the compiler has not seen ${relative(root, path)}`)
  return source
}

function report({ file, start, messageText }: ts.Diagnostic): string {
  const fence = file && virtual.get(file.fileName)
  const line = file && start !== undefined ? file.getLineAndCharacterOfPosition(start).line + 1 : 0
  const place = fence ? `${fence.document}:${fence.line + line}` : file ? relative(root, file.fileName) : ''
  return `${place} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`
}

/** What an example imports although no module, or no export of it, has that name. */
function unresolvedImports(path: string): string[] {
  const isKnown = (name: ts.Identifier) => {
    const symbol = checker.getSymbolAtLocation(name)
    return symbol !== undefined && (checker.getAliasedSymbol(symbol).declarations ?? []).length > 0
  }
  const unresolved = sourceOf(path)
    .statements.filter(ts.isImportDeclaration)
    .flatMap((statement) => {
      if (!checker.getSymbolAtLocation(statement.moduleSpecifier)) return [statement.moduleSpecifier.getText()]
      const { name, namedBindings } = statement.importClause ?? {}
      const named = namedBindings && ts.isNamedImports(namedBindings) ? namedBindings.elements : []
      return [...(name ? [name] : []), ...named.map((element) => element.name)]
        .filter((imported) => !isKnown(imported))
        .map((imported) => imported.text)
    })
  return unresolved.map((name) => `${virtual.get(path)?.document}:${virtual.get(path)?.line} ${name}`)
}

describe('the examples', () => {
  it('are found', () => {
    expect(new Set(examples.map(({ document }) => document))).toContain('README.md')
    expect(examples.filter(isJs).length).toBeGreaterThan(0)
    expect(examples.filter(isTs).length).toBeGreaterThan(0)
  })

  it('have no errors of syntax', () => {
    const found = [...virtual.keys()].flatMap((path) => program.getSyntacticDiagnostics(sourceOf(path)))
    expect(found.map(report)).toEqual([])
  })

  it('in TypeScript compile strictly', () => {
    const files = [...virtual].filter(([, fence]) => isTs(fence)).map(([path]) => sourceOf(path))
    expect(files.flatMap((file) => program.getSemanticDiagnostics(file)).map(report)).toEqual([])
  })

  it('import only what exists', () => {
    expect([...virtual.keys()].flatMap(unresolvedImports)).toEqual([])
  })

  it(`leave at most ${maxIgnored} fences out, and say so with no other word than ignore`, () => {
    expect(fences.filter(({ mark }) => mark === 'ignore').length).toBeLessThanOrEqual(maxIgnored)
    expect(fences.filter((fence) => fence.mark !== '' && !(isTs(fence) && fence.mark === 'ignore'))).toEqual([])
  })

  it('in JSON parse', () => {
    const json = fences.filter(({ language }) => language === 'json')
    expect(json.length).toBeGreaterThan(0)
    for (const { document, line, code } of json) {
      expect(() => JSON.parse(code), `${document}:${line}`).not.toThrow()
    }
  })

  it('tell how to run the tests', () => {
    const commands = fences.filter(({ document }) => document === 'README.md').map(({ code }) => code)
    expect(commands).toContain('npm install && npm test')
  })
})

// ------------------------------------------------------------------------------------------------ links

/** A heading's anchor as GitHub makes it. */
function anchorsOf(document: string): Set<string> {
  const seen = new Map<string, number>()
  const anchors = new Set<string>()
  for (const [, title = ''] of proseOf(document).matchAll(/^#{1,6} +(.+)$/gm)) {
    const text = title.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase()
    const slug = text.replace(/[^\p{L}\p{N}\s_-]/gu, '').replace(/\s/g, '-')
    const times = seen.get(slug) ?? 0
    seen.set(slug, times + 1)
    anchors.add(times === 0 ? slug : `${slug}-${times}`)
  }
  return anchors
}

function proseOf(document: string): string {
  return read(document).replace(/^```[^\n]*\n[\s\S]*?^```$/gm, '')
}

function brokenLinks(document: string): string[] {
  const broken: string[] = []
  for (const [, target = ''] of proseOf(document).matchAll(/\[[^\]]*\]\(([^)\s]+)\)/g)) {
    if (/^(https?|mailto):/.test(target)) continue
    const [path = '', anchor] = target.split('#')
    const file = path === '' ? document : join(dirname(document), path)
    if (!existsSync(join(root, file))) broken.push(`${document}: ${target}`)
    else if (anchor !== undefined && !(statSync(join(root, file)).isFile() && anchorsOf(file).has(anchor))) {
      broken.push(`${document}: ${target}`)
    }
  }
  return broken
}

describe('the links', () => {
  it.each(documents)('of %s lead to files and headings that exist', (document) => {
    expect(brokenLinks(document)).toEqual([])
  })

  it('of the README lead to every guide', () => {
    const linked = [...proseOf('README.md').matchAll(/\]\((docs\/[^)#]+)/g)].map(([, path]) => path)
    expect(guides.slice(1).filter((guide) => !linked.includes(guide))).toEqual([])
  })
})

// ---------------------------------------------------------------------------------------------- options

/** Names of the public members of an interface or type of `src`, from the type checker. */
function membersOf(file: string, name: string): string[] {
  const module = checker.getSymbolAtLocation(sourceOf(join(src, file)))
  const symbol = module && checker.getExportsOfModule(module).find((candidate) => candidate.name === name)
  if (!symbol) throw new Error(`${file} does not export ${name}`)
  const members = checker.getDeclaredTypeOfSymbol(symbol).getProperties()
  const isPublic = (member: ts.Symbol) => !member.getJsDocTags(checker).some((tag) => tag.name === 'internal')
  return members.filter(isPublic).map((member) => member.name)
}

/** The cells of the table rows whose first cell is a name in backticks. */
function rowsOf(document: string): Map<string, string[]> {
  const rows = new Map<string, string[]>()
  for (const [, name = '', rest = ''] of proseOf(document).matchAll(/^\| `([^`|]+)` \|(.*)\|$/gm)) {
    rows.set(name, [...(rows.get(name) ?? []), ...rest.split(/(?<!\\)\|/).map((cell) => cell.trim())])
  }
  return rows
}

/** `5 MiB`, `10 000`, `30 s`, `no limit`, `all` as the value they mean. */
function defaultOf(text: string): unknown {
  if (text === 'no limit') return Number.POSITIVE_INFINITY
  if (text === 'all') return []
  const match = /^([\d ]+?) ?(KiB|MiB|GiB|ms|s|min|h)?$/.exec(text)
  if (!match) throw new Error(`not a default that can be compared: ${text}`)
  const units = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, ms: 1, s: 1000, min: 60_000, h: 3_600_000 }
  const unit = (match[2] ?? 'ms') as keyof typeof units
  return Number((match[1] ?? '').replaceAll(' ', '')) * units[unit]
}

async function limitsByDefault(): Promise<Readonly<Record<string, unknown>>> {
  const engine = createUploadEngine({ storage: new MemoryStorageAdapter(), tempDir: tempFolder() })
  await engine.close()
  return { ...engine.limits }
}

describe('docs/configuration.md', () => {
  const rows = rowsOf('docs/configuration.md')

  it.each([
    ['create-upload-engine.ts', 'UploadEngineOptions'],
    ['protocols/native/create-chunked-upload-middleware.ts', 'ChunkedUploadConfig'],
    ['types.ts', 'UploadHooks'],
    ['types.ts', 'UploadEvents'],
  ])('has a row for every member that %s gives %s', (file, name) => {
    const members = membersOf(file, name)
    expect(members.length).toBeGreaterThan(2)
    expect(members.filter((member) => !rows.has(member))).toEqual([])
  })

  it.each(['docs/configuration.md', 'README.md'])('and %s print the defaults that the engine has', async (document) => {
    const limits = await limitsByDefault()
    const printed = [...rowsOf(document)].filter(([name]) => Object.hasOwn(limits, name))
    expect(printed.length).toBeGreaterThan(2)
    const told = printed.map(([name, cells]) => [name, defaultOf(cells[document === 'README.md' ? 0 : 1] ?? '')])
    const real = printed.map(([name]) => [name, limits[name]])
    expect(told).toEqual(real)
  })

  it('prints a default for every limit', async () => {
    expect(Object.keys(await limitsByDefault()).filter((name) => !rows.has(name))).toEqual([])
  })
})

describe('docs/storage-adapters.md', () => {
  it.each([
    ['storage/s3-options.ts', 'S3StorageOptions'],
    ['storage/local-options.ts', 'LocalStorageOptions'],
    ['types.ts', 'StorageAdapter'],
    ['types.ts', 'MultipartStorage'],
    ['types.ts', 'ObjectInfo'],
  ])('has a row for every member that %s gives %s', (file, name) => {
    const rows = rowsOf('docs/storage-adapters.md')
    expect(membersOf(file, name).filter((member) => !rows.has(member))).toEqual([])
  })
})

describe('docs/client.md', () => {
  it.each(['UploadOptions', 'UploadProgress'])('has a row for every member of %s', (name) => {
    const rows = rowsOf('docs/client.md')
    const members = membersOf('client/types.ts', name)
    expect(members.length).toBeGreaterThan(5)
    expect(members.filter((member) => !rows.has(member))).toEqual([])
  })
})

describe('docs/redis.md', () => {
  it.each([
    ['sessions/redis-session-store.ts', 'RedisSessionStoreOptions'],
    ['locks/redis-locker.ts', 'RedisLockerOptions'],
  ])('has a row for every member that %s gives %s', (file, name) => {
    const rows = rowsOf('docs/redis.md')
    const members = membersOf(file, name)
    expect(members.length).toBeGreaterThan(2)
    expect(members.filter((member) => !rows.has(member))).toEqual([])
  })
})

// ----------------------------------------------------------------------------------------------- errors

const codePattern = /^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$/
/** What the operating system says (`ENOSPC`) never leaves the server. */
const isOurCode = (text: string) => codePattern.test(text) && !Object.hasOwn(constants.errno, text)

function literalsIn(node: ts.Node | undefined): string[] {
  if (!node) return []
  if (ts.isStringLiteral(node)) return isOurCode(node.text) ? [node.text] : []
  const found: string[] = []
  ts.forEachChild(node, (child) => {
    found.push(...literalsIn(child))
  })
  return found
}

/** The codes in `code: 'X'`, `super('X', …)` and `new NexusUploaderError('X', …)`, also behind `??` and `? :`. */
function codesIn(node: ts.Node): string[] {
  const found: string[] = []
  if (ts.isPropertyAssignment(node) && node.name.getText() === 'code') found.push(...literalsIn(node.initializer))
  const isSuper = ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.SuperKeyword
  const isBase = ts.isNewExpression(node) && node.expression.getText() === 'NexusUploaderError'
  if (isSuper || isBase) found.push(...literalsIn(node.arguments?.[0]))
  ts.forEachChild(node, (child) => {
    found.push(...codesIn(child))
  })
  return found
}

/** `CODE status` of every call that names both: `super('X', 400, …)`, `new NexusUploaderError('X', 500, …)`. */
function statusesIn(node: ts.Node): string[] {
  const found: string[] = []
  if (ts.isCallExpression(node) || ts.isNewExpression(node)) {
    const [code, status] = node.arguments ?? []
    if (status && ts.isNumericLiteral(status)) found.push(...literalsIn(code).map((name) => `${name} ${status.text}`))
  }
  ts.forEachChild(node, (child) => {
    found.push(...statusesIn(child))
  })
  return found
}

const sources = filesIn('src', '.ts').map((name) => ts.createSourceFile(name, read(name), ts.ScriptTarget.ES2022, true))
const codesOfSource = new Set(sources.flatMap(codesIn))

const errorClasses = Object.values(errors).filter(
  (value): value is typeof errors.NexusUploaderError =>
    typeof value === 'function' &&
    (value === errors.NexusUploaderError || value.prototype instanceof errors.NexusUploaderError),
)

describe('docs/error-handling.md', () => {
  const rows = rowsOf('docs/error-handling.md')
  const codeRows = [...rows].filter(([name]) => codePattern.test(name))

  it('finds the codes of the source', () => {
    const some = [
      'UPLOAD_NOT_FOUND',
      'UPLOAD_ABORTED',
      'INVALID_FORM',
      'BODY_ALREADY_READ',
      'S3_UPLOAD_FAILED',
      'CLOSING',
    ]
    expect([...codesOfSource]).toEqual(expect.arrayContaining(some))
  })

  it('has a row for every class of error', () => {
    expect(errorClasses.length).toBeGreaterThan(15)
    expect(errorClasses.map(({ name }) => name).filter((name) => !rows.has(name))).toEqual([])
  })

  it('has a row for every code', () => {
    expect([...codesOfSource].filter((code) => !rows.has(code)).sort()).toEqual([])
  })

  it('has no row for a code that does not exist', () => {
    expect(codeRows.map(([code]) => code).filter((code) => !codesOfSource.has(code))).toEqual([])
  })

  it('tells the status of every code that the source gives one', () => {
    const real = [...new Set(sources.flatMap(statusesIn))].sort()
    expect(real).toEqual(expect.arrayContaining(['BODY_ALREADY_READ 500', 'UPLOAD_ABORTED 410']))
    const told = real.map((pair) => `${pair.split(' ')[0]} ${rows.get(pair.split(' ')[0] ?? '')?.[0]}`)
    expect(told).toEqual(real)
  })

  it('tells status and retryable of each class as they are', () => {
    const told = errorClasses
      .filter((errorClass) => errorClass !== errors.NexusUploaderError)
      .map((errorClass) => {
        const { code, status, retryable } = Reflect.construct(errorClass, []) as errors.NexusUploaderError
        const [printedStatus, , , printedRetryable] = rows.get(code) ?? []
        return { code, real: [`${status}`, retryable ? 'yes' : 'no'], printed: [printedStatus, printedRetryable] }
      })
    expect(told.filter(({ real, printed }) => real.join() !== printed.join())).toEqual([])
  })
})
